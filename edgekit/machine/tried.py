"""What was tried on this machine and held, remembered in the cache: an empty file each, named by what it depends on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgekit.machine.cache import cache_folder

_MOST = 1000


def was_tried(key: str) -> bool:
    """Whether `remember` was called with this key.

    Args:
        key: a hash of all that the outcome depends on.
    """
    return (_folder() / key).is_file()


def remember(key: str) -> None:
    """Remember a success; where the cache cannot be written, it is tried again the next time."""
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
        (_folder() / key).touch()
        known = sorted(_folder().iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in known[:-_MOST]:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return cache_folder() / "tried"
