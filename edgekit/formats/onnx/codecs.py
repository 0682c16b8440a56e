"""ONNX's codecs: floats, 8 bits with a scale for each output channel, and 4 or 8 bits in blocks along a row.

A codec names the operators that read it; `graph` alone knows what those are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.codec import Codec, Float
from edgekit.formats.halves import to_float16
from edgekit.formats.rounding import EXACT, Rounding

Operators = Literal["float", "channels", "blocks"]
# Shares of the least scale that holds a block's largest weight; a smaller one clips that and rounds the others finer.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)


@dataclass(frozen=True)
class ArraySpec:
    """One array of a stored tensor: what follows the tensor's name in the initializer's, numpy's type, and shape."""

    suffix: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class OnnxCodec(Codec, Protocol):
    """What a graph needs of a codec beside what every codec offers."""

    @property
    def operators(self) -> Operators:
        """Which of the graph's operators read it."""
        ...

    @property
    def transposes(self) -> bool:
        """Whether a matrix lies in the file as [inputs, outputs], the way MatMul takes it."""
        ...

    @property
    def rounding(self) -> Rounding:
        """How far it may move a tensor."""
        ...

    def arrays(self, shape: tuple[int, ...], *, transposed: bool) -> tuple[ArraySpec, ...]:
        """The arrays of a tensor of this shape, in the file's order."""
        ...

    def encode(self, rows: Float) -> tuple[Any, Float]:
        """Rows [n, width]: what follows row upon row in the file, and the scales that stand behind all of them.

        Raises:
            CheckpointError: weights beyond what the type can hold.
        """
        ...

    def decode(self, values: Any, scales: Any, width: int) -> Float:
        """What a runtime makes of rows [n, ...] of the file and of their scales: float32 [n, width]."""
        ...


def _bytes_of(codec: OnnxCodec, shape: tuple[int, ...]) -> int:
    return sum(a.dtype.itemsize * math.prod(a.shape) for a in codec.arrays(shape, transposed=False))


@dataclass(frozen=True)
class FloatCodec:
    """float32, or float16 that is computed with as float32: Gemma's activations go beyond what 16 bits hold.

    Attributes:
        growth: ONNX Runtime makes float32 of 16 bits (67 MB of file became 139 MB of memory).
    """

    name: Literal["float32", "float16"]
    growth: float = 1.0
    rounding: Rounding = EXACT

    exact = True
    needs_range = False
    operators: Operators = "float"
    transposes = True

    @property
    def preserves(self) -> frozenset[str]:
        """See `Codec`."""
        return frozenset({"F32", "F16", "BF16"} if self.name == "float32" else {"F16"})

    def arrays(self, shape: tuple[int, ...], *, transposed: bool) -> tuple[ArraySpec, ...]:
        """See `OnnxCodec`."""
        return (ArraySpec("", np.dtype(self.name), shape[::-1] if transposed else shape),)

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Codec`."""
        return _bytes_of(self, shape)

    def encode(self, rows: Float) -> tuple[Any, Float]:
        """See `OnnxCodec`."""
        values = to_float16(rows) if self.name == "float16" else np.ascontiguousarray(rows, np.float32)
        return values.view(np.uint8), np.empty(0, np.float32)

    def decode(self, values: Any, scales: Any, width: int) -> Float:
        """See `OnnxCodec`."""
        return np.asarray(values, np.float32)

    def roundtrip(self, weights: Float) -> Float:
        """See `Codec`."""
        return to_float16(weights).astype(np.float32) if self.name == "float16" else weights


@dataclass(frozen=True)
class ChannelCodec:
    """8 bits around zero, one symmetric float32 scale for each row of a matrix [outputs, inputs]."""

    name: str
    rounding: Rounding

    exact = False
    preserves: ClassVar[frozenset[str]] = frozenset()
    needs_range = True
    growth = 1.0
    operators: Operators = "channels"
    transposes = True

    def arrays(self, shape: tuple[int, ...], *, transposed: bool) -> tuple[ArraySpec, ...]:
        """See `OnnxCodec`."""
        values = ArraySpec(f".{self.name}", np.dtype(np.int8), shape[::-1] if transposed else shape)
        return values, ArraySpec(".scale", np.dtype(np.float32), shape[:1])

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Codec`."""
        return _bytes_of(self, shape)

    def encode(self, rows: Float) -> tuple[NDArray[np.int8], Float]:
        """See `OnnxCodec`: values [n, width] in -127 .. 127, rounded to nearest, and scales [n, 1]."""
        largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scales = np.asarray(largest / 127, np.float32)
        return np.asarray(np.clip(np.rint(rows / scales), -127, 127), np.int8), scales

    def decode(self, values: Any, scales: Any, width: int) -> Float:
        """See `OnnxCodec`: values [n, width], scales [n]."""
        return np.asarray(values * scales[:, None], np.float32)

    def roundtrip(self, weights: Float) -> Float:
        """See `Codec`."""
        values, scales = self.encode(weights.reshape(-1, weights.shape[-1]))
        return np.asarray(values * scales, np.float32).reshape(weights.shape)


@dataclass(frozen=True)
class BlockCodec:
    """Blocks along a row, symmetric around the middle of the unsigned range, one float32 scale each (MatMulNBits).

    Attributes:
        growth: ONNX Runtime packs weights of 4 bits anew (794 MB became 962 MB).
    """

    name: str
    bits: Literal[4, 8]
    size: int
    rounding: Rounding
    growth: float = 1.0

    exact = False
    preserves: ClassVar[frozenset[str]] = frozenset()
    needs_range = False
    operators: Operators = "blocks"
    transposes = False

    def arrays(self, shape: tuple[int, ...], *, transposed: bool) -> tuple[ArraySpec, ...]:
        """See `OnnxCodec`; the last block of a row is whole."""
        blocks = -(-shape[-1] // self.size)
        values = ArraySpec(f".{self.name}", np.dtype(np.uint8), (*shape[:-1], blocks, self.size * self.bits // 8))
        return values, ArraySpec(".scale", np.dtype(np.float32), (*shape[:-1], blocks))

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Codec`."""
        return _bytes_of(self, shape)

    def encode(self, rows: Float) -> tuple[NDArray[np.uint8], Float]:
        """See `OnnxCodec`: values [n, blocks, bytes per block], at 4 bits the even weight in the low half.

        Each block gets, of a few scales, the one with the least squared error, fitted to its own rounding by least
        squares (the search of llama.cpp's `make_qx_quants`, unweighted). Zeros fill the last block of a row.
        """
        middle = 1 << (self.bits - 1)
        blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % self.size))).reshape(len(rows), -1, self.size)
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
        least = extreme / np.float32(-middle)  # the range has one more step below zero: the extreme takes it
        best: Any = None
        for share in _SHARES if self.bits < 8 else _SHARES[:1]:
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
                for kept, tried in zip(best, (gain, scale, values), strict=True):
                    kept[better] = tried[better]
        _, scale, values = best
        unsigned = (values + middle).astype(np.uint8)
        return (unsigned if self.bits == 8 else unsigned[..., ::2] | unsigned[..., 1::2] << 4), scale

    def decode(self, values: NDArray[np.uint8], scales: Float, width: int) -> Float:
        """See `OnnxCodec`: values [n, blocks, bytes per block], scales [n, blocks]."""
        if self.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], -1)
        weights = (values.astype(np.float32) - np.float32(1 << (self.bits - 1))) * scales[..., None]
        return np.asarray(weights.reshape(len(values), -1)[:, :width])

    def roundtrip(self, weights: Float) -> Float:
        """See `Codec`."""
        width = weights.shape[-1]
        return self.decode(*self.encode(weights.reshape(-1, width)), width).reshape(weights.shape)


def _fitted(error: float) -> Rounding:
    """Scales of float32 that fit their blocks by least squares: what is stored falls short by just its error."""
    return Rounding(error, steps=0, shrinks=1.05, grows=-0.95)


CODECS: Mapping[str, OnnxCodec] = {
    codec.name: codec
    for codec in (
        FloatCodec("float32"),
        FloatCodec("float16", growth=2.0, rounding=Rounding(0.0003)),
        ChannelCodec("int8", Rounding(0.05, steps=0)),
        BlockCodec("int8_32", 8, 32, _fitted(0.014)),
        BlockCodec("int4_32", 4, 32, _fitted(0.152), growth=1.2),
        BlockCodec("int4_128", 4, 128, _fitted(0.233), growth=1.2),
    )
}
