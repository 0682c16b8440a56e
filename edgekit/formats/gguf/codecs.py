"""GGUF's codecs: F32, F16, BF16, and ggml's quantized types.

Quantizing and dequantizing are ggml's own, by the library inside llama-cpp-python: files equal those of llama.cpp's
tools, and any type of theirs is read.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, CheckpointError, MissingDependencyError
from edgekit.formats.codec import Float
from edgekit.formats.gguf.header import TYPES
from edgekit.formats.halves import to_float16

Bytes = NDArray[np.uint8]
_BLOCKS = {name: (weights, size) for name, weights, size in TYPES.values()}
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits` in ggml.h, as far as it is read here."""

    _fields_: ClassVar = [
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved_block", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ToFloat),
    ]


@dataclass(frozen=True)
class GgmlCodec:
    """A quantized type of ggml's: blocks along a row, each with scales of its own.

    Attributes:
        fallback: the type that llama.cpp takes for rows that do not divide into this one's blocks; None for F16.
    """

    name: str
    fallback: str | None = None

    exact = False
    preserves: ClassVar[frozenset[str]] = frozenset()
    needs_range = False
    growth = 1.0

    @property
    def block(self) -> int:
        """Weights of one block."""
        return _BLOCKS[self.name][0]

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Codec`; rows must divide into blocks."""
        weights, size = _BLOCKS[self.name]
        return math.prod(shape) // weights * size

    def encode(self, rows: Float) -> Bytes:
        """Rows [n, width] float32 as bytes [n, bytes per row].

        Raises:
            CheckpointError: weights beyond what the type can hold, or rows that do not divide into blocks.
        """
        return _quantize(np.ascontiguousarray(rows, np.float32), self.name, *_BLOCKS[self.name])

    def decode(self, data: Bytes) -> Float:
        """Bytes [n, bytes per row] as float32 [n, width]."""
        weights, size = _BLOCKS[self.name]
        width = data.shape[-1] // size * weights
        return dequantize(data.tobytes(), self.name, len(data) * width).reshape(len(data), width)

    def roundtrip(self, weights: Float) -> Float:
        """See `Codec`; zeros fill the last block of a row."""
        width = weights.shape[-1]
        rows = np.pad(weights.reshape(-1, width), ((0, 0), (0, -width % self.block)))
        return self.decode(self.encode(rows))[:, :width].reshape(weights.shape)


@dataclass(frozen=True)
class F32Codec(GgmlCodec):
    """Numbers as they are computed with."""

    exact = True
    preserves = frozenset({"F32", "F16", "BF16"})

    def encode(self, rows: Float) -> Bytes:
        """See `GgmlCodec.encode`."""
        return np.ascontiguousarray(rows, np.float32).view(np.uint8)

    def roundtrip(self, weights: Float) -> Float:
        """The same weights."""
        return weights


@dataclass(frozen=True)
class F16Codec(GgmlCodec):
    """IEEE's 16 bits."""

    exact = True
    preserves = frozenset({"F16"})

    def encode(self, rows: Float) -> Bytes:
        """See `GgmlCodec.encode`."""
        return to_float16(rows).view(np.uint8)


@dataclass(frozen=True)
class Bf16Codec(GgmlCodec):
    """The upper half of a float32, rounded to nearest even as ggml and torch do; NaN stays NaN."""

    exact = True
    preserves = frozenset({"BF16"})

    def encode(self, rows: Float) -> Bytes:
        """See `GgmlCodec.encode`."""
        rows = np.ascontiguousarray(rows, np.float32)
        bits = rows.view(np.uint32)
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        return np.where(np.isnan(rows), np.uint16(0x7FC0), rounded).view(np.uint8)


# In GGUF's smallest units; which type stands in for another is llama.cpp's own choice.
CODECS: Mapping[str, GgmlCodec] = {
    codec.name: codec
    for codec in (
        F32Codec("F32"),
        F16Codec("F16"),
        Bf16Codec("BF16"),
        GgmlCodec("Q8_0"),
        GgmlCodec("Q6_K", "Q8_0"),
        GgmlCodec("Q5_K", "Q5_1"),
        GgmlCodec("Q5_1"),
        GgmlCodec("Q5_0"),
        GgmlCodec("Q4_K", "Q5_0"),
        GgmlCodec("Q4_1"),
        GgmlCodec("Q4_0"),
        GgmlCodec("IQ4_NL"),
        GgmlCodec("IQ4_XS", "IQ4_NL"),
        GgmlCodec("Q3_K", "Q4_0"),
        GgmlCodec("Q2_K", "Q4_0"),
    )
}


def ggml_type(name: str) -> Any:
    """gguf's enumeration member of a type name."""
    import gguf

    return gguf.GGMLQuantizationType[name]


def dequantize(data: bytes, name: str, count: int) -> Float:
    """Whole blocks of any type that ggml multiplies with as `count` numbers, float32.

    Raises:
        ArtifactError: ggml has no way back from this type.
    """
    if name == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    traits = _ggml().ggml_get_type_traits(_NUMBERS[name]).contents
    # The library's own idea of the type: another version may number types otherwise.
    if (traits.block, traits.size) != _BLOCKS[name] or not traits.to_float:
        raise ArtifactError(f"ggml cannot read the type {name}", remedy="edgekit setup installs llama.cpp's library")
    out = np.empty(count, np.float32)
    traits.to_float(data, out.ctypes.data, count)
    return out


def _quantize(rows: Float, name: str, weights: int, size: int) -> Bytes:
    count, width = rows.shape
    if width % weights:
        raise CheckpointError(f"rows of {width} weights cannot be stored as {name}", allowed=f"a multiple of {weights}")
    out = np.empty((count, width // weights * size), np.uint8)
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
        raise MissingDependencyError("quantizing to GGUF, and back, needs llama.cpp's library", remedy="edgekit setup")
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return ggml
