"""This machine's CPU: its name, instruction sets, level and cores, and how busy it is."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from edgekit.machine import cpuid

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

# winnt.h's PF_*_INSTRUCTIONS_AVAILABLE: all that Windows says without a library.
_WINDOWS_FLAGS = {"sse3": 13, "neon": 19, "sse4_2": 38, "avx": 39, "avx2": 40, "avx512f": 41, "asimddp": 43}

_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Level:
    """What a build may take for granted of a CPU.

    Attributes:
        architecture: as Linux calls it.
        flags: of the kernel; on x86-64 as its psABI lists them for each level.
        families: what of `FAMILIES` it has; where the system lists no more than a few flags, these decide alone.
    """

    architecture: str
    flags: frozenset[str] = frozenset()
    families: frozenset[str] = frozenset()


# Name, as compilers take it behind `-march=` -> what it is; of each architecture the one that needs most comes first.
LEVELS: Mapping[str, Level] = {
    "x86-64-v4": Level("x86_64", _V4, frozenset({"avx512"})),
    "x86-64-v3": Level("x86_64", _V3, frozenset({"avx2"})),
    "x86-64-v2": Level("x86_64", _V2, frozenset({"sse4.2"})),
    "x86-64": Level("x86_64"),
    "armv8.2-a+dotprod+fp16+i8mm": Level("aarch64", families=frozenset({"neon", "dotprod", "fp16", "i8mm"})),
    "armv8.2-a+dotprod+fp16": Level("aarch64", families=frozenset({"neon", "dotprod", "fp16"})),
    "armv8-a": Level("aarch64"),
}


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

    @property
    def levels(self) -> tuple[str, ...]:
        """Every level that it runs, the highest first; its architecture alone, where there are no levels of that."""
        architecture = linux_name(self.architecture)
        return tuple(
            name for name, level in LEVELS.items() if level.architecture == architecture and self._runs(level)
        ) or (architecture,)

    def _runs(self, level: Level) -> bool:
        if "lm" in self.flags and level.architecture == "x86_64":  # a kernel that lists all of x86-64's
            return level.flags <= set(self.flags)
        known = {*self.features, *(("sse4.2",) if not {"sse4_2", "sse4.2"}.isdisjoint(self.flags) else ())}
        return level.families <= known


def limit_openmp_spin() -> None:
    """Let OpenMP threads that wait give up their core soon; call it before the first library with OpenMP is loaded.

    By default they spin, which starves the thread they wait for on a busy machine: a prefill of 2,964 tokens by
    a model of the reference model's shape took 16.7 s on two cores at a load of 8, and 2.9 s with this.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@functools.cache
def cpu() -> Cpu:
    """The CPU of this machine; it does not change while a process runs."""
    architecture = platform.machine().lower()
    if sys.platform == "linux":
        name, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    elif sys.platform == "darwin":
        name, flags = _macos()
    else:
        name, flags = _windows()
    usable = _usable_cores()
    physical = min(psutil.cpu_count(logical=False) or usable, usable)
    return Cpu(name or platform.processor() or architecture, architecture, flags, usable, physical)


def linux_name(architecture: str) -> str:
    """An architecture by the name that it has on Linux, whatever other systems call it."""
    small = architecture.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(small, small)


@functools.cache
def levels() -> tuple[str, ...]:
    """Every level of builds that this CPU runs, the highest first; under an emulator, of the one that is emulated."""
    asked = cpuid.flags(platform.machine().lower())
    return (cpu() if asked is None else replace(cpu(), flags=_sorted({*asked, "lm"}))).levels


def level() -> str:
    """The highest level of builds that this CPU runs: `x86-64-v3`, `armv8.2-a+dotprod+fp16`, ..."""
    return levels()[0]


def platform_name() -> str:
    """This system and processor, as packages are made for: `linux-x86_64`, `linux-aarch64`, `macos-arm64`, ..."""
    architecture = linux_name(platform.machine())
    if system := {"darwin": "macos", "win32": "windows"}.get(sys.platform):
        return f"{system}-{'arm64' if architecture == 'aarch64' else architecture}"
    return f"{'android' if hasattr(sys, 'getandroidapilevel') else 'linux'}-{architecture}"


def busy_cores(watch_s: float = 0.5) -> float:
    """How many cores all programs keep busy now, watched while this one sleeps. Waiting for a disk is not busy."""
    return float(psutil.cpu_percent(interval=watch_s)) / 100 * (psutil.cpu_count() or 1)


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and flags from /proc/cpuinfo. ARM kernels name the board, if anything."""
    fields = re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    first = dict(reversed(fields))
    name = first.get("model name") or first.get("Model") or first.get("Hardware") or ""
    return name, _sorted((first.get("flags") or first.get("Features") or "").split())


def _usable_cores() -> int:
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS, which has none
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def _macos() -> tuple[str, tuple[str, ...]]:
    command = ["sysctl", "machdep.cpu", "hw.optional"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "", ()
    settings = dict(re.findall(r"^([\w.]+): (.*)$", printed, re.MULTILINE))
    leaves = [settings.get(f"machdep.cpu.{leaf}", "") for leaf in ("features", "leaf7_features")]
    intel = " ".join(leaves).lower().split()
    arm = [key.rsplit(".", 1)[-1] for key, value in settings.items() if key.startswith("hw.optional.") and value == "1"]
    return settings.get("machdep.cpu.brand_string", ""), _sorted(intel + arm)


def _windows() -> tuple[str, tuple[str, ...]]:
    if sys.platform != "win32":
        return "", ()
    import ctypes
    import winreg

    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
        name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    has = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return name, _sorted(flag for flag, number in _WINDOWS_FLAGS.items() if has(number))


def _sorted(flags: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(flags)))
