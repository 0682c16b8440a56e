"""Main memory: how much there is, how much this process took, and how freed memory returns to the system."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

_M_MMAP_THRESHOLD = -3  # malloc.h
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; within a container, what its limit leaves."""

    total_bytes: int
    available_bytes: int


def memory() -> Memory:
    """Total and available memory, now."""
    machine = psutil.virtual_memory()
    whole = Memory(machine.total, machine.available)
    return limited(whole, _CGROUPS, _read(Path("/proc/self/cgroup"))) if sys.platform == "linux" else whole


def limited(whole: Memory, mounted: Path, memberships: str) -> Memory:
    """What the control groups of a process leave of the machine's memory: the tightest limit of all counts.

    Files that a group has read and could forget do not count as used: loading a model would fill any limit.

    Args:
        mounted: where the control groups are mounted: of version 2 here, of version 1 in `memory` below.
        memberships: what /proc/self/cgroup says.
    """
    total, available = whole.total_bytes, whole.available_bytes
    for limit, used in _limits(mounted, memberships):
        if limit < whole.total_bytes:
            total = min(total, limit)
            available = min(available, max(limit - used, 0))
    return Memory(total, available)


def _limits(mounted: Path, memberships: str) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of the process's groups and of all groups around them."""
    for line in memberships.splitlines():
        _, _, named = line.partition(":")
        controllers, _, group = named.partition(":")
        if not controllers:  # version 2
            for folder in _upwards(mounted, group):
                yield from _limit(folder, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _upwards(mounted / "memory", group):
                yield from _limit(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """A group's folder and those around it. Inside a container its own may be the root, whatever the host names it."""
    inside = PurePosixPath(group.lstrip("/"))
    if ".." not in inside.parts:  # else it lies outside what is mounted here
        yield from (root / folder for folder in (inside, *inside.parents) if folder.parts)
    yield root


def _limit(folder: Path, limit_file: str, used_file: str, cached_field: str) -> Iterator[tuple[int, int]]:
    """One group's limit and use; nothing where it has no limit, or there is no such group."""
    limit, used = _read(folder / limit_file).strip(), _read(folder / used_file).strip()
    if limit.isdigit() and used.isdigit():
        cached = re.search(rf"^{cached_field} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
        yield int(limit), max(int(used) - (int(cached[1]) if cached else 0), 0)


def peak_memory_bytes() -> int:
    """The largest resident set that this process has had, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage's figure survives exec on Linux, so a child would start with its parent's.
        peak = re.search(r"^VmHWM:\s+(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
        return int(peak[1]) * 1024 if peak else 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def trim_malloc() -> None:
    """Return freed memory to the system, which glibc does not do by itself for small pieces.

    After a tokenizer of 262,144 tokens was read, that is 300 MB.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def unmap_large_blocks() -> None:
    """Have freed memory of 2 MB and more returned to the system at once, for the rest of this process.

    glibc raises its own limit, up to 32 MB, whenever such a block is freed, and keeps what lies below used ones. Where
    a library asks for another few large blocks at each of many steps, as ONNX Runtime does without an arena, what is
    kept became several times what was ever needed.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_THRESHOLD, 2 << 20)


def _read(path: Path) -> str:
    """A file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
