"""IEEE's 16-bit numbers, which every format has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.formats.codec import Float


def to_float16(rows: Float) -> NDArray[np.float16]:
    """Float32 of any shape, rounded to nearest.

    Raises:
        CheckpointError: a weight beyond the largest.
    """
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(rows).astype(np.float16)
    if not np.isfinite(halves).all():
        raise CheckpointError(
            "a weight exceeds 65,504, the largest F16 number", remedy="choose BF16 in GGUF, fp32 in ONNX"
        )
    return halves
