"""Control rows: the full-precision model with one part rounded so coarsely that a table worth reading must show it.

Rounding is to nearest with one scale a row of a matrix, the plainest quantization there is: no groups, no search, no
mixture. It lives only in full-precision transformers and is never an artifact. A robust model survives 3 bits, and a
control that shows nothing says nothing about the table, so `LADDER` lists coarser ones, tried in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.records import Measurement
from edgekit.errors import UsageError
from edgekit.families.source import open_source
from edgekit.runtime.base import Model


@dataclass(frozen=True)
class Rounding:
    """How coarse: signed values of this many bits, the scale of each row or of the whole tensor at its largest."""

    bits: int
    scale: Literal["row", "tensor"]

    def __str__(self) -> str:
        return f"{self.bits} bits, one scale a {self.scale}"

    def apply(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest values that can be represented, of the same shape."""
        levels = np.float32(2 ** (self.bits - 1) - 1)
        axis = -1 if self.scale == "row" else None
        scale = np.maximum(np.abs(weights).max(axis=axis, keepdims=True), np.finfo(np.float32).tiny) / levels
        return np.asarray(np.rint(weights / scale) * scale, np.float32)


LADDER = (Rounding(3, "row"), Rounding(2, "row"), Rounding(2, "tensor"))

# A control that halves the accuracy of a model that is right in one half of all cases shows over as many as this.
FEWEST_SAMPLES = 20


_BLIND = "cannot show a loss"


def open_control(source: Path, role: str, rounding: Rounding) -> Model:
    """The full-precision model of a checkpoint folder with the matrices of one part rounded."""
    # torch is a matter of full precision alone; listing the ladder must not need it.
    from edgekit.full_precision.bounded import fits
    from edgekit.full_precision.model import TorchParts, compose_full_precision, load

    original = open_source(source)
    if not fits(original):
        raise UsageError("a control row needs the whole model in memory, which has no room for it")
    names = {spec.name for spec in original.family.roles[role].tensors(original.config) if spec.keep is None}
    model = load(original, lambda name, weights: rounding.apply(weights) if name in names else weights)
    return compose_full_precision(TorchParts(model, original), f"control: {role} at {rounding}")


def could_show(exact: Measurement | None) -> bool:
    """Whether a task could show damage at all.

    Args:
        exact: its measurement of full precision, None where there is none.
    """
    return exact is not None and not exact.error and exact.headline in exact.metrics and not why_blind(exact)


def why_blind(exact: Measurement) -> str:
    """Why a task cannot show a loss, one sentence without a full stop; empty where it can.

    Full precision has to do better there than one answer to everything, or chance (`majority_baseline` and `chance` in
    the details), and most of its answers must have been understood.

    Args:
        exact: full precision's measurement, with its headline figure.
    """
    unparsed = _share(exact.details, "unparsed_share")
    if unparsed > 0.5:
        return f"{100 * unparsed:.0f} % of full precision's own answers were not understood: {exact.task} {_BLIND}"
    always = _share(exact.details.get("majority_baseline"), "accuracy")
    base = always or _share(exact.details, "chance")
    if exact.metrics[exact.headline].low > base:
        return ""
    than = f"{'one answer to everything' if always else 'chance'} ({base:.3g})" if base else "no right answer at all"
    return f"full precision itself is not proven to do better than {than}: {exact.task} {_BLIND}"


def _share(details: Any, name: str) -> float:
    """A number among details, which an earlier run's file may hold in any shape; 0 where there is none."""
    found = details.get(name) if isinstance(details, Mapping) else None
    return float(found) if isinstance(found, int | float) else 0.0
