"""An encoder whose answers are transformers': so what stands behind an encoder is judged by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs import image as images_
from edgekit.runtime.base import EncoderSpec, Float


class KnownEncoder:
    """An encoder that looks its answers up: `edgekit.runtime.base.Encoder`."""

    def __init__(self, spec: EncoderSpec, items: NDArray[Any], rows: Float) -> None:
        self.spec = spec
        self._by_hash = {images_.content_hash(item): row for item, row in zip(items, rows, strict=True)}

    def encode(self, batch: NDArray[Any]) -> Float:
        """See `edgekit.runtime.base.Encoder.encode`."""
        return np.stack([self._by_hash[images_.content_hash(item)] for item in batch])

    def close(self) -> None:
        """Nothing is open."""
