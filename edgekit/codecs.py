"""How weights are stored: float32 rows to bytes of one type, and what a reader gets back.

`roundtrip` is what the wiring proof gives its reference: the source's weights as this type preserves them. GGUF's
quantizers are ggml's own, from the library inside llama-cpp-python, so files equal those of llama.cpp's tools; the way
back is the gguf package's independent implementation in numpy.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, MissingDependencyError


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
    """Bytes of a tensor of this shape in a ggml type."""
    size, bytes_ = block(name)
    return int(np.prod(shape, dtype=np.int64)) // size * bytes_


def encode(rows: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """Rows [n, width] float32 as bytes [n, bytes per row] of a ggml type.

    Raises:
        CheckpointError: weights beyond what the type can hold.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    if name == "F32":
        return rows.view(np.uint8)
    if name == "F16":
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        if not np.isfinite(halves).all():
            raise CheckpointError("a weight exceeds 65,504, the largest F16 number", remedy="choose a BF16 level")
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
    rows = np.pad(rows, ((0, 0), (0, -width % block(codec)[0])))
    return decode(encode(rows, codec), codec)[:, :width].reshape(weights.shape)


def int8_scales(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """One symmetric scale per output channel, [n, 1] float32."""
    return np.asarray(np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127, np.float32)


def int8_values(rows: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rows rounded to nearest on their scale, [n, width] int8 in -127 .. 127."""
    return np.asarray(np.clip(np.rint(rows / scale), -127, 127), np.int8)


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
