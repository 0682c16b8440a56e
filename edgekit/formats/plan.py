"""What one export writes of one part: for each tensor its source, the type it is stored as, and the shape.

Formats write by this plan. A proof does without it: it reads what was written back from the finished files, and
compares that with the checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from edgekit.artifacts.levels import Level
from edgekit.checkpoints.checkpoint import Checkpoint, Tensor
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import ArtifactError
from edgekit.formats.calibration import Calibration, Factor, factors
from edgekit.formats.codec import Codec, Float


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor: where it comes from, how it is stored, and in which shape (zeros fill up what the source lacks)."""

    spec: TensorSpec
    tensor: Tensor
    codec: Codec
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its canonical name."""
        return self.spec.name

    @property
    def bytes(self) -> int:
        """What it takes in a file."""
        return self.codec.stored_bytes(self.shape)


@dataclass(frozen=True, eq=False)
class PartPlan:
    """One part at one level, ready to be written.

    Attributes:
        config: the family's validated configuration, which only the family looks into.
        form: what the family states of this part for the level's format, None for a format that needs nothing.
        calibration: of a level that quantizes activations by measured ranges, once they were measured.
    """

    role: str
    level: Level
    checkpoint: Checkpoint
    config: Any
    form: Any
    tensors: tuple[PlannedTensor, ...]
    calibration: Calibration | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Role and level: one artifact has one part of each."""
        return self.role, self.level.name

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(planned.tensor.size for planned in self.tensors)

    @property
    def bytes(self) -> int:
        """What its tensors take in a file."""
        return sum(planned.bytes for planned in self.tensors)

    @property
    def resident_bytes(self) -> int:
        """What its tensors take in memory once a runtime has opened it."""
        return round(sum(planned.bytes * planned.codec.growth for planned in self.tensors))

    @property
    def in_order(self) -> tuple[PlannedTensor, ...]:
        """Its tensors in the order of the checkpoint's files, so that one pass can write them."""
        by_source = {planned.tensor.name: planned for planned in self.tensors}
        return tuple(by_source[tensor.name] for tensor in self.checkpoint.in_order() if tensor.name in by_source)

    @cached_property
    def codecs(self) -> Mapping[str, Codec]:
        """Canonical tensor name -> codec."""
        return {planned.name: planned.codec for planned in self.tensors}

    @cached_property
    def ranged(self) -> frozenset[str]:
        """The matrices for which the range of what enters them must be known."""
        if not self.level.needs_calibration:
            return frozenset()
        return frozenset(planned.name for planned in self.tensors if planned.codec.needs_range)

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Canonical tensor name -> what smoothing multiplies it by."""
        smoothing = self.calibration.smoothing if self.calibration else {}
        return factors((planned.spec for planned in self.tensors), smoothing)

    def prepared(self, name: str, weights: Float, start: int = 0) -> Float:
        """What is stored, by its codec, of a tensor's rows from row `start` on: the same, or smoothed."""
        factor = self.factors.get(name)
        return factor.apply(weights, start) if factor else weights

    def calibrated(self, calibration: Calibration) -> PartPlan:
        """The plan with what calibration found.

        Raises:
            ArtifactError: it was found for other tensors.
        """
        widths = {p.spec.follows[0]: p.spec.shape[-1] for p in self.tensors if p.spec.follows}
        for name, exponents in calibration.smoothing.items():
            if widths.get(name) != len(exponents):
                raise ArtifactError(
                    f"calibration of {self.role}: {len(exponents)} channels behind {name}",
                    allowed=f"{widths.get(name, 'none')}, by config.json",
                )
        for planned in self.tensors:
            if planned.name in self.ranged and planned.name not in calibration.ranges:
                raise ArtifactError(f"calibration of {self.role}: no range of what enters {planned.name}")
        return replace(self, calibration=calibration)

    def histogram(self) -> dict[str, int]:
        """How many weights are stored as which type."""
        counts: Counter[str] = Counter()
        for planned in self.tensors:
            counts[planned.codec.name] += planned.tensor.size
        return dict(sorted(counts.items()))
