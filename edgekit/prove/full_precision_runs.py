"""The proof's other side: transformers, holding the original weights or those of an artifact's file, dequantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.families.source import Source
from edgekit.full_precision import streamed
from edgekit.full_precision.original import Original, read_original
from edgekit.machine.temporary import array_in_a_file
from edgekit.progress import Progress
from edgekit.prove.written import WrittenPart
from edgekit.runtime.base import Float


@dataclass
class FullPrecisionRuns:
    """The one place that runs transformers' models.

    Levels share results (the original weights serve all of them), so results are kept; weights never are.

    Attributes:
        scratch: the folder on whose disk logits lie, hundreds of megabytes of a full-size model; where temporary files
            go for None.
    """

    source: Source
    progress: Progress = field(default_factory=Progress)
    scratch: Path | None = None
    _kept: dict[Any, Float] = field(default_factory=dict)

    @cached_property
    def original(self) -> Original:
        """What transformers itself makes of the checkpoint."""
        return read_original(self.source)

    def run(self, role: str, written: WrittenPart | None, compute: Callable[[Any], Float]) -> Float:
        """`compute(model)`, where the model's weights are those of a part's own files, or the original ones."""
        weights = self._weights(written)
        identity = role, written.part.id if written and weights.stored else None
        if identity not in self._kept:
            name = written.level if written else "original"
            count = len(self.source.family.roles[role].tensors(self.source.config))
            self.progress.start(f"{role} {name}: transformers", count)
            self._kept[identity] = compute(streamed.model(weights, self.progress.advance))
        return self._kept[identity]

    def logits(self, role: str, written: WrittenPart | None, hidden: Float) -> Float:
        """Logits [n, vocabulary] of a decoder's final hidden states [n, hidden], in a temporary file."""
        specs = self.source.family.roles[role].tensors(self.source.config)
        table = next(spec for spec in specs if spec.kind == "token_embedding")
        rows = self.array(len(hidden), table.shape[0])
        for columns, values in streamed.logits(self._weights(written), table.name, hidden):
            rows[:, columns] = values
        return rows

    def array(self, rows: int, columns: int) -> Float:
        """Zeros [rows, columns] in a file of the scratch folder, which vanishes with them."""
        return array_in_a_file((rows, columns), self.scratch)

    def _weights(self, written: WrittenPart | None) -> streamed.Weights:
        """Tensors that a type preserves count as original, so that BF16 of BF16 is not computed again."""
        stored = {} if written is None else written.tensors
        changed = {
            name: tensor for name, tensor in stored.items() if self.source.stored[name].dtype not in tensor.preserves
        }
        # All or none: smoothing divides a norm, which nothing rounds, by what it multiplies the next matrix by.
        return streamed.Weights(self.source, stored if changed else {})


def rounded(value: Any) -> float:
    """Six significant digits: what was measured, without the noise of a summation order."""
    return float(f"{float(value):.6g}")
