"""What llama.cpp is compiled with ahead of time for each level of processors (`edgekit.machine.cpu.LEVELS`).

A build for the machine at hand uses all that its processor has (`edgekit.runtime.llama.build`). One that goes to other
machines may use no more than all of its level have: on a processor without an instruction it dies by SIGILL.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import unknown
from edgekit.machine.cpu import LEVELS

# ggml's switches for x86-64, all of which are set, since CMake's defaults depend on what else is.
_X86 = (
    "SSE42", "AVX", "F16C", "AVX2", "BMI2", "FMA", "AVX_VNNI", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16",
    "AMX_TILE", "AMX_INT8", "AMX_BF16",
)  # fmt: skip
TOO_OLD = ("x86-64",)  # numpy's wheels need more, so nothing of edgekit runs there
_V2 = ("SSE42",)
_V3 = (*_V2, "AVX", "F16C", "AVX2", "BMI2", "FMA")
_V4 = (*_V3, "AVX512")


@dataclass(frozen=True)
class Target:
    """A level of processors that llama.cpp is built for.

    Attributes:
        name: the level's.
        platform: the system and processor of its wheels.
        options: CMake definitions.
    """

    name: str
    platform: str
    options: tuple[str, ...]


def _x86(*on: str) -> tuple[str, ...]:
    return tuple(f"GGML_{switch}={'ON' if switch in on else 'OFF'}" for switch in _X86)


def _options(name: str) -> tuple[str, ...]:
    known = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
    return _x86(*known[name]) if name in known else (f"GGML_CPU_ARM_ARCH={name}",)  # as compilers take it


TARGETS = {
    name: Target(name, f"linux-{level.architecture}", _options(name))
    for name, level in LEVELS.items()
    if level.architecture in ("x86_64", "aarch64") and name not in TOO_OLD
}


def target(name: str) -> Target:
    """The target of this name. Raises UsageError where there is none."""
    if name not in TARGETS:
        raise unknown("processor level", name, TARGETS)
    return TARGETS[name]
