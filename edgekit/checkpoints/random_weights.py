"""Random weights that behave like trained ones, at the speed of a memory copy: same seed and tensor name, same bits.

Drawing four billion normals takes minutes. Here 16 million are drawn once, and each stretch of a tensor's rows is read
from them at a pseudo-random offset. Read back like that, rows could repeat, and a matrix with repeated rows has a lower
rank than a trained one and quantizes more evenly. Two things prevent it: within a stretch nothing repeats at all, and
each stretch flips the signs of its columns in a pattern of its own, so that a row which is read again, however aligned,
is as good as uncorrelated with the first one (1 / sqrt(columns), as two random rows are).

Plain normals quantize too easily. As in trained models, rows and columns differ in scale, a few columns are 5 to 8
times as large, which costs their quantization blocks precision, and a few residual channels are much weaker or stronger
than the rest, which the norms before each layer make up for with weights that are over 30 times as large.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.shards import Bf16Bits
from edgekit.checkpoints.tensors import Float

BLOCK = 1 << 24  # normals that are drawn
STRETCH = 1 << 18  # weights at a time: 1 MB of float32, which stays in a core's cache
_WEAK, _STRONG = 0.06, 5.0  # residual channels that are outliers
_OUTLIERS = 640  # one channel or column in so many is one

GeneratorFor = Callable[[str], np.random.Generator]  # the generator of one name, whatever else is drawn


@dataclass(frozen=True)
class Scales:
    """A matrix of normals, its rows and its columns scaled. Further axes count as columns."""

    rows: Float
    columns: Float


Filling = Scales | Float  # a vector, or a table small enough, is given as it is
FillingOf = Callable[[str, tuple[int, ...]], Filling]  # from a tensor's name in the hub's layout and its shape


def generator(seed: int, name: str) -> np.random.Generator:
    """A random generator of this seed for this name, whatever else is drawn."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, "<u4"))


class Normals:
    """The drawn normals of one seed."""

    def __init__(self, seed: int, block: int = BLOCK, stretch: int = STRETCH) -> None:
        """Draw `block` normals; `stretch` is how many weights are made at a time."""
        self._seed, self._stretch = seed, stretch
        self._block = generator(seed, "block").standard_normal(block, np.float32)

    def fill(self, name: str, filling: Filling) -> Iterator[Bf16Bits]:
        """The weights of one tensor as flat bf16 bit patterns, some rows at a time."""
        if not isinstance(filling, Scales):
            yield to_bf16(np.array(filling, np.float32))
            return
        rng = generator(self._seed, f"places {name}")
        height, width = len(filling.rows), len(filling.columns)
        step = max(1, self._stretch // width)
        for start in range(0, height, step):
            rows = filling.rows[start : start + step]
            offset = int(rng.integers(len(self._block) - len(rows) * width))
            signs = rng.integers(0, 2, width, np.int8).astype(np.float32) * 2 - 1
            values = self._block[offset : offset + len(rows) * width].reshape(len(rows), width) * rows[:, None]
            values *= filling.columns * signs
            yield to_bf16(values)


def to_bf16(values: Float) -> Bf16Bits:
    """The bit patterns of the nearest bf16 numbers, flat. Overwrites `values`."""
    bits = values.reshape(-1).view(np.uint32)
    bits += 0x8000
    return np.ascontiguousarray(bits.view(np.uint16)[1::2])  # the upper halves: little-endian


def spread(rng: np.random.Generator, count: int, deviation: float) -> Float:
    """Log-normal factors of unit mean square."""
    return unit(np.exp(deviation * rng.standard_normal(count)))


def spikes(rng: np.random.Generator, count: int, low: float, high: float) -> Float:
    """Ones, of which one in 640 (at least one) lies between `low` and `high`."""
    factors = np.ones(count, np.float32)
    outliers = rng.choice(count, max(1, count // _OUTLIERS), replace=False)
    factors[outliers] = rng.uniform(low, high, len(outliers))
    return factors


def unit(factors: NDArray[Any]) -> Float:
    """The same factors with unit mean square."""
    return np.asarray(factors / np.sqrt(np.mean(factors**2)), np.float32)


def matrix(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> Scales:
    """Rows and columns of different scales, a few columns large; inputs of unit variance come out with `gain`."""
    height, width = shape
    columns = unit(spread(rng, width, 0.15) * spikes(rng, width, 5, 8))
    return Scales(gain / math.sqrt(width) * spread(rng, height, 0.25), columns)


def residual_profile(rng: np.random.Generator, width: int) -> Float:
    """The strength of each residual channel: 1, but for a few weak and a few strong ones."""
    profile = np.ones(width, np.float32)
    few = max(1, width // _OUTLIERS)
    outliers = rng.choice(width, 2 * few, replace=False)
    profile[outliers[:few]], profile[outliers[few:]] = _WEAK, _STRONG
    return profile


def norm_gain(profile: Float) -> Float:
    """What a norm multiplies each channel with: the weak come out twice as strong as the rest, and so do the strong."""
    return np.where(profile == 1, 1, 2 / profile).astype(np.float32)
