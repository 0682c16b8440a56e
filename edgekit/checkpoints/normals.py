"""Normally distributed weights at the speed of a memory copy, the same for the same seed and tensor name.

Drawing four billion normals takes minutes. Here 16 million are drawn once, and each stretch of a tensor's rows is read
from them at a pseudo-random place. Read back like that, rows could repeat, and a matrix with repeated rows has a lower
rank than a trained one and quantizes more evenly. Two things prevent it: within a stretch nothing repeats at all, and
each stretch flips the signs of its columns in a pattern of its own, so that a row which is read again, however aligned,
is as good as uncorrelated with the first one (1 / sqrt(columns), as two random rows are).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit.families.scales import Float, Scales

BLOCK = 1 << 24  # normals that are drawn
STRETCH = 1 << 18  # weights at a time: 1 MB of float32, which stays in a core's cache

Stored = NDArray[np.uint16]


def generator(seed: int, name: str) -> np.random.Generator:
    """A random generator of this seed for this name, whatever else is drawn."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, "<u4"))


class Normals:
    """The drawn normals of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._block = generator(seed, "block").standard_normal(BLOCK, np.float32)

    def stretches(self, name: str, scales: Scales) -> Iterator[Stored]:
        """The weights of one matrix as flat bf16 bit patterns, some rows at a time."""
        rng = generator(self._seed, f"places {name}")
        height, width = len(scales.rows), len(scales.columns)
        step = max(1, STRETCH // width)
        for start in range(0, height, step):
            rows = scales.rows[start : start + step]
            place = int(rng.integers(BLOCK - len(rows) * width))
            signs = rng.integers(0, 2, width, np.int8).astype(np.float32) * 2 - 1
            values = self._block[place : place + len(rows) * width].reshape(len(rows), width) * rows[:, None]
            values *= scales.columns * signs
            yield to_bf16(values)


def to_bf16(values: Float) -> Stored:
    """The bit patterns of the nearest bf16 numbers, flat. Overwrites `values`."""
    bits = values.reshape(-1).view(np.uint32)
    bits += 0x8000
    return np.ascontiguousarray(bits.view(np.uint16)[1::2])  # the upper halves: little-endian
