"""What a test of the seams is given: a way to open one kind of decoder or encoder, and what to expect of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.runtime.base import Decoder, Encoder


@dataclass(frozen=True)
class DecoderCase:
    """One kind of decoder.

    Attributes:
        open: a new one, with a context of so many positions.
        hidden, vocabulary: its widths.
        window: positions that some of its layers see; a prompt must be longer to show what a cache forgets.
        tolerance: of a row of logits, relative to its length: what another order of sums may change.
    """

    open: Callable[[int], Decoder]
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
