"""JSON files of a checkpoint: of bounded size, and with one meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError

_MAX_BYTES = 64 * 1024 * 1024


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        CheckpointError: too large, not JSON, or not an object.
    """
    check_size(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}", allowed="a JSON object")
    return data


def check_size(path: Path) -> None:
    """Raise CheckpointError where a JSON file is larger than any of these needs to be."""
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes", allowed=f"at most {_MAX_BYTES} bytes")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads`. Of two entries with one name, two readers may take different ones.

    Raises:
        ValueError: a name stands in it twice.
    """
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object has two entries of one name")
    return entries
