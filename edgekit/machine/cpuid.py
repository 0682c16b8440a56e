"""What a CPU says about itself, asked in this process: under an emulator that is what is emulated, not the host.

The kernel's list (/proc/cpuinfo) is the host's there. glibc publishes the CPUID leaves of x86-64 since 2.33
(`sys/platform/x86.h`), with what the system supports beside what the CPU has; on ARM the kernel hands every process its
features (`getauxval`, `asm/hwcap.h`). Only the standard library is taken: an installer asks before anything is there.
"""

from __future__ import annotations

import ctypes
import sys

# Flag, in the kernel's spelling -> index of the leaf as glibc counts them (1, 7, 0x80000001), register, bit.
_ECX, _EBX = 2, 1
_X86 = {
    "pni": (0, _ECX, 0),
    "ssse3": (0, _ECX, 9),
    "fma": (0, _ECX, 12),
    "cx16": (0, _ECX, 13),
    "sse4_1": (0, _ECX, 19),
    "sse4_2": (0, _ECX, 20),
    "movbe": (0, _ECX, 22),
    "popcnt": (0, _ECX, 23),
    "xsave": (0, _ECX, 26),
    "avx": (0, _ECX, 28),
    "f16c": (0, _ECX, 29),
    "bmi1": (1, _EBX, 3),
    "avx2": (1, _EBX, 5),
    "bmi2": (1, _EBX, 8),
    "avx512f": (1, _EBX, 16),
    "avx512dq": (1, _EBX, 17),
    "avx512cd": (1, _EBX, 28),
    "avx512bw": (1, _EBX, 30),
    "avx512vl": (1, _EBX, 31),
    "lahf_lm": (2, _ECX, 0),
    "abm": (2, _ECX, 5),
}
_REGISTERS = 4  # of what the CPU has; as many follow of what may be used
# Flag -> which of the two words (AT_HWCAP, AT_HWCAP2), bit.
_ARM = {"asimd": (16, 1), "asimdhp": (16, 10), "asimddp": (16, 20), "i8mm": (26, 13), "bf16": (26, 14)}


def flags(architecture: str) -> frozenset[str] | None:
    """Features in the kernel's spelling, as far as levels of processors ask for them; None where nobody can be asked.

    Args:
        architecture: `platform.machine()` in small letters.
    """
    if sys.platform != "linux":
        return None
    if architecture in ("x86_64", "amd64"):
        return _x86()
    return _arm() if architecture in ("aarch64", "arm64") else None


def _x86() -> frozenset[str] | None:
    leaf = getattr(ctypes.CDLL(None), "__x86_get_cpuid_feature_leaf", None)
    if leaf is None:  # musl, or a glibc before 2.33
        return None
    leaf.argtypes, leaf.restype = [ctypes.c_uint32], ctypes.POINTER(ctypes.c_uint32 * (2 * _REGISTERS))
    words = [leaf(index).contents for index in range(3)]
    return frozenset(
        name for name, (index, register, bit) in _X86.items() if words[index][_REGISTERS + register] >> bit & 1
    )


def _arm() -> frozenset[str] | None:
    given = getattr(ctypes.CDLL(None), "getauxval", None)
    if given is None:
        return None
    given.argtypes, given.restype = [ctypes.c_ulong], ctypes.c_ulong
    return frozenset(name for name, (word, bit) in _ARM.items() if given(word) >> bit & 1)
