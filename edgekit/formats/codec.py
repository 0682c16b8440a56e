"""How numbers are stored: what every codec of every format offers. A codec is one class in its format's folder."""

from __future__ import annotations

from typing import Protocol

from edgekit.checkpoints.tensors import Float


class Codec(Protocol):
    """How numbers of one type are stored: float32 rows to bytes, and what a reader gets back."""

    @property
    def name(self) -> str:
        """Unique over all formats."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a matrix of it multiplies activations as they are; of others, runtimes round those to 8 bits."""
        ...

    @property
    def preserves(self) -> frozenset[str]:
        """The types of a checkpoint's tensors that lose nothing."""
        ...

    @property
    def needs_range(self) -> bool:
        """Whether a level with static activations needs the range of what enters a matrix of it."""
        ...

    @property
    def growth(self) -> float:
        """Bytes in memory, once a runtime has opened the file, for each byte in it."""
        ...

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape, its scales included."""
        ...

    def roundtrip(self, weights: Float) -> Float:
        """Weights of any shape as this codec preserves them.

        Raises:
            CheckpointError: weights beyond what the type can hold.
        """
        ...
