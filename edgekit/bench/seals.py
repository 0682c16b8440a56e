"""Seals: what the full-precision model left for a task, as it was left.

Beside the files `STORED.*` lies `STORED.sha256`, written last, with the hash of each. A run that was interrupted left
none, and what was changed since is not what it says: both are left anew.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import sha256_file, write_atomically
from edgekit.errors import ArtifactError

_SUFFIX = ".sha256"


def seal(folder: Path, stored: str) -> None:
    """Write down the hashes of the files of this name, where there are any and nobody did."""
    files, place = _files(folder, stored), folder / f"{stored}{_SUFFIX}"
    if files and not place.exists():
        write_atomically(place, json.dumps(_hashes(files)))


def broken(folder: Path, stored: str) -> bool:
    """Whether files of this name are missing or not as they were left."""
    files = _files(folder, stored)
    try:
        return not files or read_json(folder / f"{stored}{_SUFFIX}", ArtifactError) != _hashes(files)
    except (ArtifactError, OSError):
        return True


def remove(folder: Path, stored: str) -> None:
    """Remove the files of this name, their seal first."""
    for path in (folder / f"{stored}{_SUFFIX}", *_files(folder, stored)):
        path.unlink(missing_ok=True)


def _files(folder: Path, stored: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{stored}.*") if path.suffix != _SUFFIX)


def _hashes(files: list[Path]) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in files}
