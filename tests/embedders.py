"""A small model of two encoders whose vectors a test decides: an image's by its first pixel, a text's by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.families.composition import ContrastiveSettings
from edgekit.runtime.base import EncoderSpec, Float
from edgekit.runtime.embedding_model import ContrastiveModel, TextReader

SIZE = 8


class Table:
    """An encoder that looks up a row."""

    def __init__(self, rows: NDArray[np.floating], images: bool) -> None:
        self.rows, self.images, self.encoded = np.asarray(rows, np.float32), images, 0
        self.spec = EncoderSpec("pixels", "pooled", (SIZE, SIZE, 3)) if images else EncoderSpec("ids", "pooled", (1,))

    def encode(self, batch: NDArray[Any]) -> Float:
        self.encoded += len(batch)
        return self.rows[batch[:, 0, 0, 0] if self.images else batch[:, 0]]

    def close(self) -> None:
        """Nothing to free."""


def embedder(
    images: NDArray[np.floating], texts: Mapping[str, Sequence[float]], *, scale: float = 0.0, bias: float = 0.0
) -> ContrastiveModel:
    """A model whose image with the first pixel i has the vector `images[i]`; texts that are not listed are an error."""
    names = list(texts)
    rows = np.array([texts[name] for name in names], np.float32).reshape(len(names), -1)
    settings = ContrastiveSettings(
        hidden=images.shape[1], text_length=1, pad_token_id=0, logit_scale=scale, logit_bias=bias
    )
    reader = TextReader(
        lambda asked: np.array([[names.index(text)] for text in asked], np.int64), lambda asked: [1] * len(asked)
    )
    shown = Preprocessing(size=SIZE, resample="nearest", mean=(0.5,) * 3, std=(0.5,) * 3)
    return ContrastiveModel(Table(images, True), Table(rows, False), reader, shown, settings)


def picture(number: int) -> NDArray[np.uint8]:
    """An image that the model tells by its number, below 256."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[0, 0] = number
    return image
