"""How much to divide each channel of an activation by, so that a few large ones do not cost all the others precision.

One scale serves a whole activation, so a channel that is far larger than the others leaves them few of its 256 steps.
Divided by s, and its column of the matrix multiplied by s, it costs the matrix's rows precision instead; SmoothQuant
shares the cost evenly by s = sqrt(max|x| / max|w|). Other weights of the two, or the one with the least estimated error
for each activation, made no difference beyond noise where this was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.calibration import Range
from edgekit.formats.codec import Float
from edgekit.formats.plan import PartPlan, PlannedTensor

_LARGEST = 12  # exponent of two: a channel 4,096 times as large as the middle one is made equal to it


@dataclass(frozen=True, eq=False)
class Channels:
    """What was seen of the activation that enters a matrix: each channel's least and greatest value, float32 [in]."""

    low: Float
    high: Float

    @property
    def range(self) -> Range:
        """Of all channels together."""
        return Range(float(self.low.min()), float(self.high.max()))

    @property
    def largest(self) -> Float:
        """Each channel's largest absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def divided(self, factors: Float) -> Channels:
        """The same activation with its channels divided."""
        return Channels(self.low / factors, self.high / factors)


def smoothing(plan: PartPlan, seen: Mapping[str, Channels]) -> dict[str, tuple[int, ...]]:
    """What `Calibration.smoothing` holds; an activation whose channels are all alike is not in it.

    Args:
        seen: what enters each matrix, by the matrix's name.
    """
    groups: dict[str, list[PlannedTensor]] = {}
    for planned in plan.tensors:
        if planned.spec.follows and planned.spec.name in seen:
            groups.setdefault(planned.spec.follows[0], []).append(planned)
    smoothing = {}
    for source, matrices in groups.items():
        exponents = smoothing_exponents(seen[matrices[0].spec.name].largest, _largest(plan, matrices))
        if exponents.any():
            smoothing[source] = tuple(int(exponent) for exponent in exponents)
    return smoothing


def _largest(plan: PartPlan, matrices: Sequence[PlannedTensor]) -> Float:
    """The largest absolute weight of each column in all matrices that read one activation; memory holds one of them."""
    columns = [np.abs(plan.checkpoint.read(planned.tensor)).max(axis=0) for planned in matrices]
    return np.asarray(np.max(columns, axis=0), np.float32)


def smoothing_exponents(inputs: Float, weights: Float) -> NDArray[np.int64]:
    """For each channel the exponent of two next to s, where the middle channel's s is 1: all alike change nothing.

    Args:
        inputs, weights: the largest absolute activation, and weight, of each channel.
    """
    used = (inputs > 0) & (weights > 0)
    if not used.any():
        return np.zeros(len(inputs), np.int64)
    wanted = np.log2(np.where(used, inputs, 1), dtype=np.float64) / 2 - np.log2(np.where(used, weights, 1)) / 2
    centred = np.where(used, wanted - np.median(wanted[used]), 0)
    return np.clip(np.rint(centred), -_LARGEST, _LARGEST).astype(np.int64)
