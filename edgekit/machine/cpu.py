"""This machine's CPU and memory, by the standard library alone: Linux, macOS, and Windows as far as it tells."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Kernel spellings -> the family a person asks for. One row per family; a CPU has it if it has any of the flags.
FAMILIES: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"),
    "bf16": ("avx512_bf16", "avx512bf16", "bf16", "FEAT_BF16"),
    "fp16": ("avx512_fp16", "asimdhp", "fphp", "FEAT_FP16"),
    "amx": ("amx_tile",),
    "neon": ("asimd", "neon", "AdvSIMD"),
    "dotprod": ("asimddp", "FEAT_DotProd"),
    "i8mm": ("i8mm", "FEAT_I8MM"),
    "sve": ("sve", "FEAT_SVE"),
    "sme": ("sme", "FEAT_SME"),
}

_M_MMAP_THRESHOLD = -3  # malloc.h

# winnt.h's PF_*_INSTRUCTIONS_AVAILABLE: all that Windows says without a library.
_WINDOWS_FLAGS = {"sse3": 13, "neon": 19, "avx": 39, "avx2": 40, "avx512f": 41, "asimddp": 43}


@dataclass(frozen=True)
class Cpu:
    """A CPU as the operating system describes it.

    Attributes:
        flags: every feature flag in the kernel's spelling, sorted; empty where the system does not say.
        usable_cores: logical cores that this process may run on.
        physical_cores: cores without hyperthreads; the usable ones where the system does not say.
    """

    name: str
    architecture: str
    flags: tuple[str, ...]
    usable_cores: int
    physical_cores: int

    @property
    def features(self) -> tuple[str, ...]:
        """The instruction set families that decide speed, in the order of `FAMILIES`."""
        return tuple(name for name, spellings in FAMILIES.items() if not set(spellings).isdisjoint(self.flags))


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; within a container, what its limit leaves. Zero where the system does not say."""

    total_bytes: int
    available_bytes: int


def yield_early() -> None:
    """Let OpenMP threads that wait give up their core soon; call it before the first library with OpenMP is loaded.

    By default they spin, which starves the thread they wait for on a busy machine: a prefill of 2,964 tokens by
    a model of the reference model's shape took 16.7 s on two cores at a load of 8, and 2.9 s with this.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def give_back_memory() -> None:
    """Return freed memory to the system, which glibc does not do by itself for small pieces.

    After a tokenizer of 262,144 tokens was read, that is 300 MB.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def return_large_blocks() -> None:
    """Have freed memory of 2 MB and more returned to the system at once, for the rest of this process.

    glibc raises its own limit, up to 32 MB, whenever such a block is freed, and keeps what lies below used ones. Where
    a library asks for another few large blocks at each of many steps, as ONNX Runtime does without an arena, what is
    kept became several times what was ever needed.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_THRESHOLD, 2 << 20)


@functools.cache
def cpu() -> Cpu:
    """The CPU of this machine; it does not change while a process runs."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)
    architecture = platform.machine().lower()
    if sys.platform == "linux":
        name, flags, physical = parse_cpuinfo(_read("/proc/cpuinfo"))
    elif sys.platform == "darwin":
        name, flags, physical = _macos()
    else:
        name, flags, physical = _windows()
    return Cpu(name or platform.processor() or architecture, architecture, flags, cores, min(physical or cores, cores))


def memory() -> Memory:
    """Total and available memory, now."""
    if sys.platform == "linux":
        return _limit(parse_meminfo(_read("/proc/meminfo")), Path("/sys/fs/cgroup"))
    if sys.platform == "darwin":
        pages = dict(re.findall(r"Pages (free|inactive|speculative):\s+(\d+)", _output("vm_stat")))
        page_bytes = int(_output("sysctl", "-n", "hw.pagesize") or 4096)
        total = int(_output("sysctl", "-n", "hw.memsize") or 0)
        return Memory(total, sum(map(int, pages.values())) * page_bytes)
    return _windows_memory()


def peak_memory_bytes() -> int:
    """The largest resident set that this process has had, in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage's figure survives exec on Linux, so a child would start with its parent's.
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _windows_peak() -> int:
    if sys.platform != "win32":
        return 0
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS."""

        _fields_ = [("size", wintypes.DWORD), ("faults", wintypes.DWORD), ("peak", ctypes.c_size_t),
                    ("rest", ctypes.c_size_t * 7)]  # fmt: skip

    counters = Counters(size=ctypes.sizeof(Counters))
    process = ctypes.windll.kernel32.GetCurrentProcess
    process.restype = wintypes.HANDLE
    read = ctypes.windll.psapi.GetProcessMemoryInfo
    read.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    return int(counters.peak) if read(process(), ctypes.byref(counters), counters.size) else 0


def busy_cores(watch_s: float = 0.5) -> float:
    """How many cores other programs keep busy now, watched while this one sleeps; 0 where the system does not say."""
    before = _cpu_times(_read("/proc/stat"))
    time.sleep(watch_s if before else 0)
    after = _cpu_times(_read("/proc/stat"))
    if not before or not after or after[0] <= before[0]:
        return 0.0
    return (os.cpu_count() or 1) * (1 - (after[1] - before[1]) / (after[0] - before[0]))


def _cpu_times(stat: str) -> tuple[int, int] | None:
    """All time and idle time of all cores, from /proc/stat: user, nice, system, idle, waiting, ..."""
    first = stat.partition("\n")[0].split()
    if not first or first[0] != "cpu":
        return None
    times = [int(field) for field in first[1:9]]
    return sum(times), times[3] + times[4]


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...], int]:
    """Name, flags and physical cores from /proc/cpuinfo; ARM kernels name no model and no cores."""
    fields = re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    first = dict(reversed(fields))
    name = first.get("model name") or first.get("Model") or first.get("Hardware") or ""
    flags = (first.get("flags") or first.get("Features") or "").split()
    sockets = [value for key, value in fields if key == "physical id"]
    cores = [value for key, value in fields if key == "core id"]
    return name, _sorted(flags), len(set(zip(sockets, cores, strict=False)))


def parse_meminfo(text: str) -> Memory:
    """Total and available bytes from /proc/meminfo."""
    kib = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text, re.MULTILINE))
    return Memory(int(kib.get("MemTotal", 0)) * 1024, int(kib.get("MemAvailable", 0)) * 1024)


def _limit(whole: Memory, cgroup: Path) -> Memory:
    """The machine's memory, or the container's share of it (cgroup v2) where that is less."""
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit() or int(limit) >= whole.total_bytes:
        return whole
    return Memory(int(limit), min(whole.available_bytes, max(int(limit) - int(used), 0)))


def _macos() -> tuple[str, tuple[str, ...], int]:
    printed = _output("sysctl", "machdep.cpu", "hw.optional", "hw.physicalcpu")
    settings = dict(re.findall(r"^([\w.]+): (.*)$", printed, re.MULTILINE))
    leaves = [settings.get(f"machdep.cpu.{leaf}", "") for leaf in ("features", "leaf7_features")]
    intel = " ".join(leaves).lower().split()
    arm = [key.rsplit(".", 1)[-1] for key, value in settings.items() if key.startswith("hw.optional.") and value == "1"]
    return settings.get("machdep.cpu.brand_string", ""), _sorted(intel + arm), int(settings.get("hw.physicalcpu", 0))


def _windows() -> tuple[str, tuple[str, ...], int]:
    if sys.platform != "win32":
        return "", (), 0
    import ctypes
    import winreg

    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
        name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    has = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return name, _sorted(flag for flag, number in _WINDOWS_FLAGS.items() if has(number)), 0


def _windows_memory() -> Memory:
    if sys.platform != "win32":
        return Memory(0, 0)

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("total", ctypes.c_ulonglong),
                    ("available", ctypes.c_ulonglong), ("rest", ctypes.c_ulonglong * 5)]  # fmt: skip

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return Memory(status.total, status.available)


def _sorted(flags: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(flags)))


def _read(path: str | Path) -> str:
    """A file of the kernel; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a system command prints; empty where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
