"""The proof's other side: transformers, holding the original weights or a level's own dequantized ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.export.plan import PartPlan
from edgekit.families import Family
from edgekit.full_precision import streamed
from edgekit.progress import Progress
from edgekit.runtime.base import Float


@dataclass
class References:
    """The one place that runs transformers' models.

    Levels share results (the original weights serve all of them), so results are kept; weights never are.
    """

    checkpoint: Checkpoint
    family: Family
    config: Any
    progress: Progress = field(default_factory=Progress)
    _kept: dict[Any, Float] = field(default_factory=dict)

    def run(self, role: str, plan: PartPlan | None, compute: Callable[[Any], Float]) -> Float:
        """`compute(model)`, where the model's weights are as a planned part preserves them, or the original ones."""
        weights = self._weights(plan)
        smoothed = plan.level.name if plan and plan.factors else ""
        identity = (role, tuple(sorted(weights.codec_by_name.items())), smoothed)
        if identity not in self._kept:
            name = plan.level.name if plan else "original"
            self.progress.start(f"{role} {name}: transformers", len(self.family.roles[role].slots(self.config)))
            self._kept[identity] = compute(streamed.model(self.config, weights, self.progress.advance))
        return self._kept[identity]

    def logits(self, plan: PartPlan | None, hidden: Float) -> Float:
        """Logits [n, vocabulary] of a decoder's final hidden states [n, hidden], in a temporary file."""
        slots = self.family.roles["decoder"].slots(self.config)
        table = next(slot for slot in slots if slot.kind == "token_embedding")
        rows = in_a_file(len(hidden), table.shape[0])
        for columns, values in streamed.logits(self._weights(plan), table.name, hidden):
            rows[:, columns] = values
        return rows

    def _weights(self, plan: PartPlan | None) -> streamed.Weights:
        """Tensors that a level preserves exactly count as original, so that BF16 of BF16 is not computed again."""
        changed = {
            planned.slot.name: planned.codec
            for planned in (plan.tensors if plan else ())
            if planned.codec not in ("F32", "float32", planned.tensor.dtype)
        }
        if plan and plan.factors:
            return streamed.Weights(self.checkpoint, self.family, changed, plan.prepared)
        return streamed.Weights(self.checkpoint, self.family, changed)


def in_a_file(rows: int, columns: int) -> Float:
    """An array in a temporary file that vanishes with it."""
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a signal at the first write
            os.posix_fallocate(file.fileno(), 0, rows * columns * 4)
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def rounded(value: Any) -> float:
    """Six significant digits: what was measured, without the noise of a summation order."""
    return float(f"{float(value):.6g}")
