"""Vectors that were computed before, under the content that they were computed from."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.checkpoints.tensors import Float


class Remembered(dict[str, Float]):
    """Content -> vectors; what was used longest ago is forgotten.

    Attributes:
        most_bytes: that are kept, though never less than what was used last.
        held_bytes: that all vectors take now.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes, self.held_bytes = most_bytes, 0

    def of(self, content: str, compute: Callable[[], Float]) -> Float:
        """The vectors of this content, computed where they are not remembered."""
        if content in self:
            vectors = self.pop(content)
        else:
            vectors = compute()
            self.held_bytes += vectors.nbytes
        self[content] = vectors  # the last to be forgotten
        while len(self) > 1 and self.held_bytes > self.most_bytes:
            self.held_bytes -= self.pop(next(iter(self))).nbytes
        return vectors
