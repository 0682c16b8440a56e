"""The kinds of processor that llama.cpp is built for ahead of time: one row each, and which of them one runs.

A build for the machine at hand uses all that its processor has (`edgekit.runtime.llama.build`). One that goes to other
machines may use no more than all of them have: on a processor without an instruction it dies by SIGILL.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edgekit.errors import unknown

# ggml's switches for x86-64, all of which are set, since CMake's defaults depend on what else is.
_X86 = (
    "SSE42", "AVX", "F16C", "AVX2", "BMI2", "FMA", "AVX_VNNI", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16",
    "AMX_TILE", "AMX_INT8", "AMX_BF16",
)  # fmt: skip
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS = {"darwin": "macos", "win32": "windows"}


@dataclass(frozen=True)
class Target:
    """A kind of processor.

    Attributes:
        name: the level by the x86-64 psABI's name, or the architecture as compilers spell it, with what it has beyond.
        platform: the system and processor of its wheels.
        flags: what the kernel says of a processor that runs the build, in its own spelling.
        options: CMake definitions.
    """

    name: str
    platform: str
    flags: frozenset[str]
    options: tuple[str, ...]

    @property
    def amx(self) -> bool:
        """Whether its code uses the tile unit."""
        return "amx_tile" in self.flags


def _x86(name: str, below: Target | None, flags: str, switches: str) -> Target:
    """A row that has what the one below has, and more."""
    on = {option for option in below.options if option.endswith("=ON")} if below else set()
    on |= {f"GGML_{switch}=ON" for switch in switches.split()}
    options = tuple(f"GGML_{switch}={'ON' if f'GGML_{switch}=ON' in on else 'OFF'}" for switch in _X86)
    return Target(name, "linux-x86_64", (below.flags if below else frozenset()) | set(flags.split()), options)


def _arm(name: str, flags: str) -> Target:
    return Target(name, "linux-aarch64", frozenset(flags.split()), (f"GGML_CPU_ARM_ARCH={name}",))


# The psABI's levels; what it calls SSE3, LZCNT and SAHF is pni, abm and lahf_lm to the kernel.
_V2 = _x86("x86-64-v2", None, "cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2", "SSE42")
_V3 = _x86("x86-64-v3", _V2, "avx avx2 bmi1 bmi2 f16c fma abm movbe", "AVX F16C AVX2 BMI2 FMA")
_V4 = _x86("x86-64-v4", _V3, "avx512f avx512bw avx512cd avx512dq avx512vl", "AVX512")
_V4_BF16 = _x86(
    "x86-64-v4+vnni+bf16", _V4, "avx512vbmi avx512_vnni avx512_bf16", "AVX512_VBMI AVX512_VNNI AVX512_BF16"
)
_ROWS = (
    _V2,
    _V3,
    _x86("x86-64-v3+vnni", _V3, "avx_vnni", "AVX_VNNI"),
    _V4,
    _V4_BF16,
    _x86("x86-64-v4+vnni+bf16+amx", _V4_BF16, "amx_tile amx_int8 amx_bf16", "AMX_TILE AMX_INT8 AMX_BF16"),
    _arm("armv8-a", "fp asimd"),
    _arm("armv8.2-a+dotprod+fp16", "fp asimd fphp asimdhp asimddp"),
    _arm("armv8.6-a+fp16", "fp asimd fphp asimdhp asimddp i8mm bf16"),
)
TARGETS = {row.name: row for row in _ROWS}


def target(name: str) -> Target:
    """The target of this name. Raises UsageError where there is none."""
    if name not in TARGETS:
        raise unknown("processor level", name, TARGETS)
    return TARGETS[name]


def best(names: Iterable[str], flags: Collection[str]) -> str | None:
    """The level, of those that there are builds for, that gets the most out of a processor; None where it runs none.

    Args:
        names: of levels; one that is unknown here, of a later edgekit, is none that can be chosen.
        flags: of the processor, in the kernel's spelling.
    """
    runs = [TARGETS[name] for name in names if name in TARGETS and TARGETS[name].flags <= set(flags)]
    return max(runs, key=lambda row: (len(row.flags), row.name)).name if runs else None


def platform_here() -> str:
    """This machine's system and processor, as packages name them: `linux-x86_64`."""
    machine = platform.machine().lower()
    system = _SYSTEMS.get(sys.platform, sys.platform)
    return f"{system}-{'arm64' if system == 'macos' and machine == 'arm64' else _MACHINES.get(machine, machine)}"
