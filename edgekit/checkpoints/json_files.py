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


def read_raw(path: Path) -> bytes:
    """The bytes of a JSON file. Raises CheckpointError where it is no file, or larger than any of these needs to be."""
    return documents.read_bounded(path, CheckpointError, _MAX_BYTES)
