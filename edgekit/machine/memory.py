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
_MADV_DONTNEED = 4  # mman.h
# Of a control group's memory, what holds content of files or can be made again: the kernel takes it back where there is
# need, as it does machine-wide for `MemAvailable`. A model that was read twice is `active`.
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
# Version -> the files of limits, the file of what is used, the prefix of what memory.stat counts with groups inside.
_FILES = {
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
    2: (("memory.max", "memory.high"), "memory.current", ""),
}


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; within a container, what its limit leaves."""

    total_bytes: int
    available_bytes: int


def memory(root: Path = Path("/")) -> Memory:
    """Total and available memory, now.

    Args:
        root: where /proc and the control groups lie.
    """
    machine = psutil.virtual_memory()
    whole = Memory(machine.total, machine.available)
    return limited(whole, root) if sys.platform == "linux" else whole


def limited(whole: Memory, root: Path) -> Memory:
    """What the control groups of a process leave of the machine's memory: the tightest limit of all counts.

    Files that a group has read and could forget do not count as used: loading a model would fill any limit.

    Args:
        root: where /proc, whose `self` says in which groups the process is, and the control groups lie.
    """
    total, available = whole.total_bytes, whole.available_bytes
    for limit, used in _limits(root):
        if limit < whole.total_bytes:
            total = min(total, limit)
            available = min(available, max(limit - used, 0))
    return Memory(total, available)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of the process's groups and of all groups around them, as far as they are mounted."""
    mounts = list(_mounts(_read(root / "proc/self/mountinfo"))) or _USUAL_MOUNTS
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, named = line.partition(":")
        controllers, _, group = named.partition(":")
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else 0
        for mount in mounts:
            if mount.version == version:
                for folder in _upwards(root / mount.folder.lstrip("/"), mount.top, group):
                    yield from _limit(folder, version)


@dataclass(frozen=True)
class _Mount:
    """Where control groups that count memory are mounted.

    Attributes:
        top: the group that is seen there, as the host names it; `/` for all of them.
    """

    version: int
    top: str
    folder: str


# Where the kernel does not say.
_USUAL_MOUNTS = [_Mount(2, "/", "/sys/fs/cgroup"), _Mount(1, "/", "/sys/fs/cgroup/memory")]


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        fields, system = (half.split(" ") for half in (line.partition(" - ")[0], line.partition(" - ")[2]))
        version = {"cgroup": 1, "cgroup2": 2}.get(system[0])
        if version and len(fields) > 4 and (version == 2 or "memory" in system[-1].split(",")):
            yield _Mount(version, fields[3], fields[4])


def _upwards(mounted: Path, top: str, group: str) -> Iterator[Path]:
    """A group's folder and those around it, up to what is mounted.

    Inside a container that may be its own group, whether that is named as the host names it or as its own root.
    """
    inside = PurePosixPath(group)
    inside = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath(group.lstrip("/"))
    if ".." not in inside.parts:  # else it lies outside what is mounted here
        yield from (mounted / folder for folder in (inside, *inside.parents) if folder.parts)
    yield mounted


def _limit(folder: Path, version: int) -> Iterator[tuple[int, int]]:
    """One group's limits and use; nothing where it has none, or there is no such group."""
    limit_files, used_file, prefix = _FILES[version]
    used = _read(folder / used_file).strip()
    fields = dict(re.findall(r"^(\w+) (\d+)$", _read(folder / "memory.stat"), re.MULTILINE))
    cached = sum(int(fields.get(f"{prefix}{name}", 0)) for name in _RECLAIMABLE)
    for limit in (_read(folder / name).strip() for name in limit_files):
        if limit.isdigit() and used.isdigit():
            yield int(limit), max(int(used) - cached, 0)


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


def release_mapped(path: Path) -> None:
    """Have this process hold no page of a file that is mapped to be read, on Linux; what is used again comes back.

    A library that lays out a file's weights in memory of its own has read each page of it once, and keeps them all.
    """
    if sys.platform != "linux" or not (advise := getattr(ctypes.CDLL(None), "madvise", None)):
        return
    name = str(path.resolve())
    for line in _read(Path("/proc/self/maps")).splitlines():
        place, mode, _, _, _, *mapped = line.split(maxsplit=5)
        if mapped == [name] and mode.startswith("r-"):  # what was written to a copy would be lost
            start, end = (int(address, 16) for address in place.split("-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _read(path: Path) -> str:
    """A file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
