"""What a test of the seams is given: how to open one kind of decoder or encoder, what to expect of it, and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.runtime.base import Decoder, Embeddings, Encoder, Float, Segment, Tokens

IMAGE = 16


class OpenDecoder(Protocol):
    """A new decoder, with a context of so many positions for each of so many sequences, where it can hold several."""

    def __call__(self, context: int, *, sequences: int = 1, exact: bool = False) -> Decoder:
        """Args: exact: as for `edgekit.runtime.parts.RunOptions`."""
        ...


@dataclass(frozen=True)
class DecoderCase:
    """One kind of decoder.

    Attributes:
        open: a new one.
        hidden, vocabulary: its widths.
        window: positions that some of its layers see; a prompt must be longer to show what a cache forgets.
        tolerance: of a row of logits, relative to its length: what another order of sums may change.
    """

    open: OpenDecoder
    hidden: int
    vocabulary: int
    window: int
    tolerance: float


@dataclass(frozen=True)
class EncoderCase:
    """One kind of encoder.

    Attributes:
        open: a new one.
        tolerance: of a vector, relative to its length.
    """

    open: Callable[[], Encoder]
    tolerance: float


def tokens(case: DecoderCase, count: int, seed: int = 0) -> Tokens:
    return Tokens(tuple(np.random.default_rng(seed).integers(2, case.vocabulary // 2, count).tolist()))


def picture(case: DecoderCase, seed: int = 0) -> Embeddings:
    array = np.random.default_rng(seed).normal(0, 1, (IMAGE, case.hidden)).astype(np.float32)
    return Embeddings(array, f"picture {seed}")


def prompt(case: DecoderCase, length: int = 700) -> list[Segment]:
    """Text, two images and text beyond any window and any chunk."""
    first, second = picture(case, 1), picture(case, 2)
    return [tokens(case, 20, 1), first, tokens(case, 9, 2), second, tokens(case, length - 29 - 2 * IMAGE, 3)]


def difference(actual: Sequence[Float], expected: Sequence[Float]) -> float:
    """The largest of all rows, relative to a row's length."""
    a, e = np.stack(list(actual)), np.stack(list(expected))
    assert a.shape == e.shape
    assert np.isfinite(a).all()
    return float((np.linalg.norm(a - e, axis=1) / np.linalg.norm(e, axis=1)).max())
