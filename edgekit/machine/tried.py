"""What was tried on this machine and held, remembered in the cache: an empty file each, named by what it depends on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.machine.cache import cache_folder

MOST = 1000  # the newest ones


def was_tried(key: str) -> bool:
    """Whether `remember` was called with this key.

    Args:
        key: a hash of all that the outcome depends on.
    """
    try:
        return (folder() / key).is_file()
    except (OSError, EdgekitError):  # there is no cache
        return False


def remember(key: str) -> None:
    """Remember a success; where the cache cannot be written, it is tried again the next time."""
    with suppress(OSError, EdgekitError):
        folder().mkdir(parents=True, exist_ok=True)
        (folder() / key).touch()
        known = sorted(folder().iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in known[:-MOST]:
            path.unlink(missing_ok=True)


def folder() -> Path:
    """Where it is."""
    return cache_folder() / "tried"
