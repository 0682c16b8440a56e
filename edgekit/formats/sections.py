"""A file as the pass over a checkpoint writes it: tensor by tensor, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekit.checkpoints.checkpoint import Slice

EncodedBytes = Any  # bytes, or a contiguous array that offers them


class Tail(Protocol):
    """What stands behind a tensor's slices: their scales, or the whole tensor transposed."""

    def add(self, kept: Any) -> None:
        """Take what was kept of the next slice."""

    def chunks(self) -> list[EncodedBytes]:
        """All of it, in the file's order."""


@dataclass(frozen=True)
class Section:
    """One tensor of a file.

    Attributes:
        name: of the stored tensor that it is made from.
        weights: numbers in that tensor.
        form: sections of one tensor with equal forms have equal bytes, so they are encoded once.
        encode: a slice of the tensor -> its bytes in the file; with `tail`, those and something to keep for the tail.
        bytes: of the whole tensor in the file.
        padding: zero bytes behind it.
        tail: begins what gathers what was kept of the slices.
    """

    name: str
    weights: int
    form: Hashable
    encode: Callable[[Slice], EncodedBytes]
    bytes: int
    padding: int
    tail: Callable[[], Tail] | None = None


@dataclass(frozen=True)
class FileContent:
    """A file that one pass over a checkpoint writes: what stands first, then its tensors in the checkpoint's order."""

    path: Path
    head: bytes
    sections: tuple[Section, ...]
