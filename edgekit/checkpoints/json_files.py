"""JSON files of a checkpoint: of bounded size, and with one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.artifacts import documents
from edgekit.errors import CheckpointError

_MAX_BYTES = 64 * 1024 * 1024
_MOST_ENTRIES = 8_000_000  # of MedGemma's tokenizer, with its merges, 2.1 million


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        CheckpointError: too large, not JSON, or not an object.
    """
    data = documents.read_json(path, CheckpointError, most_bytes=_MAX_BYTES, most_entries=_MOST_ENTRIES)
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}", allowed="a JSON object")
    return data


def check_size(path: Path) -> None:
    """Raise CheckpointError where a JSON file is larger than any of these needs to be."""
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes", allowed=f"at most {_MAX_BYTES} bytes")
