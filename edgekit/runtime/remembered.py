"""Vectors that were computed before, under the content that they were computed from."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.checkpoints.tensors import Float


class Remembered(dict[str, Float]):
    """Content -> vectors; what was used longest ago is forgotten.

    Attributes:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def of(self, content: str, compute: Callable[[], Float]) -> Float:
        """The vectors of this content, computed where they are not remembered."""
        vectors = self.pop(content) if content in self else compute()
        self[content] = vectors  # the last to be forgotten
        while len(self) > self.most:
            del self[next(iter(self))]
        return vectors
