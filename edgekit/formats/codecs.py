"""How weights are stored: float32 rows to bytes of one type, and what a reader gets back.

`roundtrip` is what the wiring proof gives its reference: the source's weights as this type preserves them. GGUF's
quantizers are ggml's own, from the library inside llama-cpp-python, so files equal those of llama.cpp's tools; the way
back is the gguf package's independent implementation in numpy.
"""

from __future__ import annotations

import ctypes
import math
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, MissingDependencyError

# ONNX's codecs in blocks along a row, one float32 scale each: bits and weights per block (MatMulNBits' layout).
BLOCKS = {"int4_32": (4, 32), "int4_128": (4, 128), "int8_32": (8, 32)}
# Shares of the least scale that holds a block's largest weight; a smaller one clips that and rounds the others finer.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)


def ggml_type(name: str) -> Any:
    """gguf's enumeration member of a type name."""
    import gguf

    return gguf.GGMLQuantizationType[name]


def block(name: str) -> tuple[int, int]:
    """Weights per block and bytes per block of a ggml type."""
    import gguf

    size, bytes_ = gguf.GGML_QUANT_SIZES[ggml_type(name)]
    return int(size), int(bytes_)


def stored_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this shape, its scales included."""
    if name in BLOCKS:
        bits, size = BLOCKS[name]
        return math.prod(shape[:-1]) * -(-shape[-1] // size) * (size * bits // 8 + 4)
    if name == "int8":
        return math.prod(shape) + 4 * shape[0]
    if name in ("float32", "float16"):
        return math.prod(shape) * np.dtype(name).itemsize
    size, bytes_ = block(name)
    return math.prod(shape) // size * bytes_


def encode(rows: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """Rows [n, width] float32 as bytes [n, bytes per row] of a ggml type.

    Raises:
        CheckpointError: weights beyond what the type can hold.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    if name in ("F32", "float32"):
        return rows.view(np.uint8)
    if name in ("F16", "float16"):
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        if not np.isfinite(halves).all():
            raise CheckpointError(
                "a weight exceeds 65,504, the largest F16 number", remedy="choose BF16 in GGUF, fp32 in ONNX"
            )
        return halves.view(np.uint8)
    if name == "BF16":
        return _to_bf16(rows).view(np.uint8)
    return _ggml_quantize(rows, name)


def decode(data: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Bytes [n, bytes per row] of a ggml type as float32 [n, width]."""
    import gguf.quants

    return np.asarray(gguf.quants.dequantize(data, ggml_type(name)), np.float32)


def roundtrip(weights: NDArray[np.float32], codec: str) -> NDArray[np.float32]:
    """Weights as this codec preserves them; any shape, quantized along the last axis, zeros filling the last block."""
    if codec in ("F32", "float32"):
        return weights
    width = weights.shape[-1]
    rows = weights.reshape(-1, width)
    if codec == "int8":
        scale = int8_scales(rows)
        return np.asarray(int8_values(rows, scale) * scale, np.float32).reshape(weights.shape)
    if codec == "float16":
        return encode(rows, codec).view(np.float16).astype(np.float32).reshape(weights.shape)
    if codec in BLOCKS:
        return from_blocks(*to_blocks(rows, codec), codec, width).reshape(weights.shape)
    rows = np.pad(rows, ((0, 0), (0, -width % block(codec)[0])))
    return decode(encode(rows, codec), codec)[:, :width].reshape(weights.shape)


def int8_scales(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """One symmetric scale per output channel, [n, 1] float32."""
    return np.asarray(np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127, np.float32)


def int8_values(rows: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rows rounded to nearest on their scale, [n, width] int8 in -127 .. 127."""
    return np.asarray(np.clip(np.rint(rows / scale), -127, 127), np.int8)


def to_blocks(rows: NDArray[np.float32], codec: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rows in blocks of a codec of `BLOCKS`, symmetric around the middle of the unsigned range.

    Each block gets, of a few scales, the one with the least squared error, fitted to its own rounding by least squares
    (the search of llama.cpp's `make_qx_quants`, unweighted). Zeros fill the last block of a row.

    Returns:
        Values uint8 [n, blocks, bytes per block], at 4 bits the even weight in the low half; and scales [n, blocks].
    """
    bits, size = BLOCKS[codec]
    middle = 1 << (bits - 1)
    blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size))).reshape(len(rows), -1, size)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    least = extreme / np.float32(-middle)  # the range has one more step below zero: the extreme takes it
    best: Any = None
    for share in _SHARES if bits < 8 else _SHARES[:1]:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.rint(blocks / (least * np.float32(share)))
        values = np.clip(np.nan_to_num(values, copy=False), -middle, middle - 1, out=values)
        squares = np.maximum(np.einsum("nbk,nbk->nb", values, values), np.float32(1e-30))
        scale = np.einsum("nbk,nbk->nb", blocks, values) / squares
        gain = scale * scale * squares  # of the squared error
        if best is None:
            best = [gain, scale, values]
        else:
            better = gain > best[0]
            for kept, found in zip(best, (gain, scale, values), strict=True):
                kept[better] = found[better]
    _, scale, values = best
    unsigned = (values + middle).astype(np.uint8)
    return (unsigned if bits == 8 else unsigned[..., ::2] | unsigned[..., 1::2] << 4), scale


def from_blocks(values: NDArray[np.uint8], scales: NDArray[np.float32], codec: str, width: int) -> NDArray[np.float32]:
    """What a runtime makes of blocks: float32 [n, width]."""
    bits, _ = BLOCKS[codec]
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], -1)
    weights = (values.astype(np.float32) - np.float32(1 << (bits - 1))) * scales[..., None]
    return np.asarray(weights.reshape(len(values), -1)[:, :width])


def _to_bf16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest even, as ggml and torch do; NaN stays NaN."""
    bits = rows.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(rows), np.uint16(0x7FC0), rounded)


def _ggml_quantize(rows: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    size, bytes_ = block(name)
    count, width = rows.shape
    if width % size:
        raise CheckpointError(f"rows of {width} weights cannot be stored as {name}", allowed=f"a multiple of {size}")
    out = np.empty((count, width // size * bytes_), np.uint8)
    written = _ggml().ggml_quantize_chunk(
        int(ggml_type(name)), rows.ctypes.data, out.ctypes.data, 0, count, width, None
    )
    if written != out.nbytes:
        raise CheckpointError(f"ggml wrote {written} bytes of {name}, expected {out.nbytes}")
    return out


@cache
def _ggml() -> ctypes.CDLL:
    """The library that llama-cpp-python carries; the package itself is not imported.

    Raises:
        MissingDependencyError: it is not installed.
    """
    package = find_spec("llama_cpp")
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    path = Path(package.origin).parent / "lib" / name if package and package.origin else None
    if path is None or not path.is_file():
        raise MissingDependencyError("quantizing to GGUF needs llama.cpp's library", remedy="edgekit setup")
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return ggml
