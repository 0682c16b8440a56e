"""The proof's other side: transformers, holding the original weights or a level's own dequantized ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.artifacts.disk_errors import named, temporary_place
from edgekit.families.source import Source
from edgekit.formats.plan import PartPlan
from edgekit.full_precision import streamed
from edgekit.progress import Progress
from edgekit.runtime.base import Float


@dataclass
class FullPrecisionRuns:
    """The one place that runs transformers' models.

    Levels share results (the original weights serve all of them), so results are kept; weights never are.
    """

    source: Source
    progress: Progress = field(default_factory=Progress)
    _kept: dict[Any, Float] = field(default_factory=dict)

    def run(self, role: str, plan: PartPlan | None, compute: Callable[[Any], Float]) -> Float:
        """`compute(model)`, where the model's weights are as a planned part preserves them, or the original ones."""
        weights = self._weights(plan)
        smoothed = plan.level.name if plan and plan.factors else ""
        identity = (role, tuple(sorted((tensor, codec.name) for tensor, codec in weights.codecs.items())), smoothed)
        if identity not in self._kept:
            name = plan.level.name if plan else "original"
            count = len(self.source.family.roles[role].tensors(self.source.config))
            self.progress.start(f"{role} {name}: transformers", count)
            self._kept[identity] = compute(streamed.model(weights, self.progress.advance))
        return self._kept[identity]

    def logits(self, role: str, plan: PartPlan | None, hidden: Float) -> Float:
        """Logits [n, vocabulary] of a decoder's final hidden states [n, hidden], in a temporary file."""
        specs = self.source.family.roles[role].tensors(self.source.config)
        table = next(spec for spec in specs if spec.kind == "token_embedding")
        rows = in_a_file(len(hidden), table.shape[0])
        for columns, values in streamed.logits(self._weights(plan), table.name, hidden):
            rows[:, columns] = values
        return rows

    def _weights(self, plan: PartPlan | None) -> streamed.Weights:
        """Tensors that a level preserves exactly count as original, so that BF16 of BF16 is not computed again."""
        changed = {
            planned.name: planned.codec
            for planned in (plan.tensors if plan else ())
            if planned.tensor.dtype not in planned.codec.preserves
        }
        if plan and plan.factors:
            return streamed.Weights(self.source, changed, plan.prepared)
        return streamed.Weights(self.source, changed)


def in_a_file(rows: int, columns: int) -> Float:
    """An array in a temporary file that vanishes with it."""
    place = temporary_place()
    with named(place), tempfile.TemporaryFile(dir=place) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a signal at the first write
            os.posix_fallocate(file.fileno(), 0, rows * columns * 4)
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def rounded(value: Any) -> float:
    """Six significant digits: what was measured, without the noise of a summation order."""
    return float(f"{float(value):.6g}")
