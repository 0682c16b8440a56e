"""Embeddings of images, computed once: in memory always, on disk where the user said so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.artifacts.files import sha256_json
from edgekit.checkpoints.tensors import Float
from edgekit.machine.kept import Kept
from edgekit.runtime.remembered import Remembered

MOST_BYTES = 64 << 20  # in memory: two dozen images of MedGemma's


class EmbeddedImages:
    """Content of an image's pixels -> float32 [tokens, hidden]."""

    def __init__(self, tokens: int, made_by: str = "", kept: Kept | None = None) -> None:
        """Args:
        tokens: of one image.
        made_by: names all that embeddings depend on beside the pixels: the part, and what runs it.
        kept: where they stay; None for nowhere.
        """
        self._tokens, self._made_by, self._kept = tokens, made_by, kept
        self._memory = Remembered(MOST_BYTES)

    def of(self, content: str, compute: Callable[[], Float]) -> Float:
        """An image's embeddings, computed where they are not known."""
        return self._memory.of(content, lambda: self._found(content, compute))

    @property
    def held_bytes(self) -> int:
        """What is in memory now; at most `MOST_BYTES`, unless one image alone has more."""
        return self._memory.held_bytes

    def _found(self, content: str, compute: Callable[[], Float]) -> Float:
        key = sha256_json(["embeddings of an image", self._made_by, content])
        row_bytes = 4 * self._tokens
        if self._kept and (data := self._kept.get(key)) and len(data) % row_bytes == 0:
            return np.frombuffer(data, np.float32).reshape(self._tokens, -1)
        vectors = compute()
        if self._kept:
            self._kept.put(key, np.ascontiguousarray(vectors, np.float32).tobytes())
        return vectors
