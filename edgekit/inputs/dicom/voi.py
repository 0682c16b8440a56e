"""Windows and lookup tables for what is shown (PS3.3, C.11.2), to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs.dicom.types import Window


def windowed(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Values by a window (C.11.2.1.2.1, C.11.2.1.3): 0 to 255, rounded."""
    x, center, width = values.astype(np.float64), window.center, window.width
    if window.function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -700, 700)))
    elif window.function == "LINEAR" and width > 1:
        share = (x - (center - 0.5)) / (width - 1) + 0.5
    elif window.function == "LINEAR":
        share = (x > center - 0.5).astype(np.float64)
    else:
        share = (x - center) / width + 0.5
    return _bytes(share)


def between(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from black to white, rounded: what Google's code does once it has clipped them."""
    return _bytes((values.astype(np.float64) - low) / (high - low if high > low else 1))


def looked_up(values: NDArray[Any], table: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values by a VOI LUT [entries, 2] of neighbouring inputs; those before and behind it have its ends."""
    place = np.clip(np.rint(values.astype(np.float64) - table[0, 0]).astype(np.int64), 0, len(table) - 1)
    return _bytes(table[place, 1])


def _bytes(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
