"""How fast this machine reads a file that no cache holds, as a model is read at its first open."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from edgekit.artifacts.disk_errors import NO_SPACE
from edgekit.artifacts.files import sync
from edgekit.machine import page_cache
from edgekit.machine.mounts import in_memory
from edgekit.machine.temporary import temporary_folder

MOST_BYTES = 1 << 29
_LEAST_BYTES = 1 << 26  # less says nothing
_BLOCK_BYTES = 1 << 23
_WRITE_S = 8.0  # a memory card takes 20 MB a second
_SHARE = 0.1  # of what is free


def read_speed(folder: Path, most_bytes: int = MOST_BYTES) -> tuple[float | None, str]:
    """Bytes a second that one reader gets, and how that was measured, or why it was not (then None).

    A new file of random bytes, which no file system can make smaller, is written to the folder and removed afterwards.

    Raises:
        OSError: the folder cannot be written to.
    """
    size = min(most_bytes, int(shutil.disk_usage(folder).free * _SHARE))
    if size < min(_LEAST_BYTES, most_bytes):
        return None, "not measured: too little of the disk is free"
    if in_memory(folder.stat().st_dev):
        return None, "not measured: the folder is in memory"
    with temporary_folder("disk", folder) as inside:
        path = inside / "read"
        try:
            written = _write(path, size)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return None, "not measured: the disk is full"
        if not page_cache.forget([path]):
            return None, "not measured: this system cannot be asked to forget a file"
        return written / _read_s(path), f"{written / 1e6:.0f} MB by one reader, forgotten by the system before"


def _write(path: Path, size: int) -> int:
    """Write as much as `size` bytes, and no longer than some seconds; how many there are."""
    block, written, ends = os.urandom(_BLOCK_BYTES), 0, time.monotonic() + _WRITE_S
    with path.open("wb", buffering=0) as stream:
        while written < size and time.monotonic() < ends:
            written += stream.write(block[: size - written])
            if written % (8 * _BLOCK_BYTES) == 0:
                os.fsync(stream.fileno())  # else the clock sees memory alone
    sync(path)
    return written


def _read_s(path: Path) -> float:
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        started = time.perf_counter()
        while stream.readinto(block):
            pass
        return time.perf_counter() - started
