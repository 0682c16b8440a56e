"""What an NVIDIA GPU reaches, measured through its driver alone: no toolkit, no library that is as large as a model.

The driver (`libcuda.so.1`, `nvcuda.dll`) copies memory, and translates a kernel in PTX that does nothing but multiply
matrices of half-precision numbers in registers (`mma.sync`, sums in single precision): the rate of the tensor cores,
which no product of large matrices exceeds.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.machine import worker

_LIMIT_S = 60.0
_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76  # CU_DEVICE_ATTRIBUTE_*
_MOST_BYTES = 1 << 29  # of each of two buffers: beyond any cache
_TRIES = 5
_WARPS, _BLOCKS = 8, 4  # warps of a block, blocks of a multiprocessor: enough to keep tensor cores busy
_ROUNDS, _SUMS = 1 << 15, 8  # of the kernel's loop; products in each that do not wait for one another
_ROWS, _COLUMNS = 16, 8  # of one product of a warp


@dataclass(frozen=True)
class Reached:
    """One GPU, and what it reached.

    Attributes:
        memory_bytes: of its own, or what it sees of the machine's.
        unified: whether its memory is the machine's.
        bytes_per_s: read and written together by a copy within its memory; None where that failed.
        flops: operations a second of half-precision products, two for each multiply-add; None where it has none.
    """

    name: str
    memory_bytes: int
    unified: bool
    bytes_per_s: float | None = None
    flops: float | None = None


def reached() -> Reached | None:
    """The first GPU, measured in a process of its own; None where there is no driver or no GPU, or it fails."""
    try:
        answers, _ = worker.run(measure, limit_s=_LIMIT_S)
    except OSError:
        return None
    return Reached(**answers[-1]) if answers else None


def measure(job: object) -> Iterator[dict[str, Any]]:
    """For `edgekit.machine.worker`: the fields of a `Reached`, more of them with each measurement that succeeds."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return
    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _done(driver.cuDeviceGet(ctypes.byref(device), 0))
    _done(driver.cuDeviceGetName(name, len(name), device))
    _done(driver.cuDeviceTotalMem_v2(ctypes.byref(total), device))

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _done(driver.cuDeviceGetAttribute(ctypes.byref(value), number, device))
        return value.value

    found: dict[str, Any] = {
        "name": name.value.decode("utf-8", "replace"),
        "memory_bytes": total.value,
        "unified": bool(attribute(_INTEGRATED)),
    }
    yield found
    _done(driver.cuCtxCreate_v2(ctypes.byref(context), 0, device))
    found["bytes_per_s"] = _copied(driver)
    yield found
    found["flops"] = _multiplied(driver, attribute(_MULTIPROCESSORS), 10 * attribute(_MAJOR) + attribute(_MINOR))
    yield found


def _done(code: int) -> None:
    """Raise EdgekitError for what the driver could not do."""
    if code:
        raise EdgekitError(f"the NVIDIA driver says CUresult {code}")


def _copied(driver: Any) -> float:
    """Bytes a second of a copy within the GPU's memory, each read once and written once."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _done(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    size = min(_MOST_BYTES, free.value // 4)
    buffers = [_allocated(driver, size), _allocated(driver, size)]
    seconds = _best_s(driver, lambda: driver.cuMemcpyDtoD_v2(*buffers, ctypes.c_size_t(size)))
    for buffer in buffers:
        _done(driver.cuMemFree_v2(buffer))
    return 2 * size / seconds


def _multiplied(driver: Any, multiprocessors: int, capability: int) -> float:
    """Operations a second of `mma.sync` on all multiprocessors.

    Args:
        capability: ten times the major number, plus the minor one; tensor cores begin at 70, this instruction at 75.
    """
    depth = 16 if capability >= 80 else 8
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    _done(driver.cuModuleLoadData(ctypes.byref(module), _kernel(depth).encode()))
    _done(driver.cuModuleGetFunction(ctypes.byref(kernel), module, b"products"))
    sums, rounds = _allocated(driver, 4), ctypes.c_uint32(_ROUNDS)
    given = (ctypes.c_void_p * 2)(*(ctypes.cast(ctypes.byref(one), ctypes.c_void_p) for one in (sums, rounds)))
    shape = (_BLOCKS * multiprocessors, 1, 1, 32 * _WARPS, 1, 1)
    seconds = _best_s(driver, lambda: driver.cuLaunchKernel(kernel, *shape, 0, None, given, None))
    products = _BLOCKS * multiprocessors * _WARPS * _ROUNDS * _SUMS
    return products * 2 * _ROWS * _COLUMNS * depth / seconds


def _kernel(depth: int) -> str:
    """The kernel's PTX: a loop of products of 16 x depth with depth x 8, each added to one of several sums."""
    left, right = [f"%a{i}" for i in range(depth // 4)], [f"%b{i}" for i in range(depth // 8)]
    sums = [f"{{%c{4 * i}, %c{4 * i + 1}, %c{4 * i + 2}, %c{4 * i + 3}}}" for i in range(_SUMS)]
    operator = f"mma.sync.aligned.m16n8k{depth}.row.col.f32.f16.f16.f32"
    factors = f"{{{', '.join(left)}}}, {{{', '.join(right)}}}"
    version, target = ("7.0", "sm_80") if depth == 16 else ("6.5", "sm_75")
    lines = [
        f".version {version}\n.target {target}\n.address_size 64",
        ".visible .entry products(.param .u64 sums, .param .u32 rounds) {",
        f".reg .pred %more;\n.reg .b32 %left, %a<{len(left)}>, %b<{len(right)}>;",
        f".reg .f32 %c<{4 * _SUMS}>;\n.reg .b64 %at;",
        "ld.param.u64 %at, [sums];\nld.param.u32 %left, [rounds];",
        *(f"mov.b32 {name}, 0x3c003c00;" for name in (*left, *right)),  # twice 1.0
        *(f"mov.f32 %c{i}, 0f00000000;" for i in range(4 * _SUMS)),
        "again:",
        *(f"{operator} {one}, {factors}, {one};" for one in sums),
        "sub.u32 %left, %left, 1;\nsetp.ne.u32 %more, %left, 0;\n@%more bra again;",
        *(f"add.f32 %c0, %c0, %c{i};" for i in range(1, 4 * _SUMS)),  # else nothing would be computed
        "cvta.to.global.u64 %at, %at;\nst.global.f32 [%at], %c0;\nret;\n}\n",
    ]
    return "\n".join(lines)


def _allocated(driver: Any, size: int) -> ctypes.c_uint64:
    address = ctypes.c_uint64()
    _done(driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
    return address


def _best_s(driver: Any, start: Callable[[], int]) -> float:
    """Seconds of the fastest of several tries, behind one that wakes the GPU."""
    seconds = []
    for _ in range(1 + _TRIES):
        started = time.perf_counter()
        _done(start())
        _done(driver.cuCtxSynchronize())
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
