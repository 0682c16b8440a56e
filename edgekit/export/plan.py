"""What one export writes: for each tensor of one part, its source and the type it is stored as.

Exporters write by this plan and the proof builds its reference by it, each reading the source for itself, so a wrong
name, transform or header in an exporter cannot repeat itself in the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgekit.artifacts.levels import Level
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensors import Tensor
from edgekit.errors import ArtifactError
from edgekit.export.calibration import Calibration, Factor, Float, exponents_to_factors
from edgekit.families import Family, Slot
from edgekit.families.base import tensors_of
from edgekit.formats import codecs

Progress = Callable[[int], None]  # called with the number of weights just written
_GROWTH = {"float16": 2.0, "int4_32": 1.2, "int4_128": 1.2}  # from file to memory; of all other codecs 1


@dataclass(frozen=True)
class Planned:
    """One tensor: where it comes from, how it is stored, and in which shape (zeros fill up what the source lacks)."""

    slot: Slot
    tensor: Tensor
    codec: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PartPlan:
    """One part at one level, ready to be written.

    Attributes:
        calibration: of a level that quantizes activations by measured ranges, once they were measured.
    """

    family: Family
    role: str
    level: Level
    checkpoint: Checkpoint
    config: Any
    tensors: tuple[Planned, ...]
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
        return sum(codecs.stored_bytes(planned.codec, planned.shape) for planned in self.tensors)

    @property
    def resident_bytes(self) -> int:
        """What its tensors take in memory once a runtime has opened it.

        ONNX Runtime makes float32 of weights of 16 bits (67 MB of file became 139 MB of memory) and packs those of 4
        bits anew (794 MB became 962 MB); of all others it, and llama.cpp, hold what the file holds.
        """
        sizes = ((codecs.stored_bytes(p.codec, p.shape), p.codec) for p in self.tensors)
        return round(sum(size * _GROWTH.get(codec, 1.0) for size, codec in sizes))

    @cached_property
    def codec_by_name(self) -> Mapping[str, str]:
        """Canonical tensor name -> codec, for the proof's reference."""
        return {planned.slot.name: planned.codec for planned in self.tensors}

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Canonical tensor name -> what smoothing multiplies it by."""
        rows: dict[str, Float] = {}
        columns: dict[str, Float] = {}
        smoothing = self.calibration.smoothing if self.calibration else {}
        for slot in (planned.slot for planned in self.tensors if planned.slot.follows):
            if slot.follows[0] in smoothing:
                exponents = np.asarray(smoothing[slot.follows[0]])
                columns[slot.name] = exponents_to_factors(exponents)
                rows |= dict.fromkeys(slot.follows, exponents_to_factors(-exponents))
        return {name: Factor(rows.get(name), columns.get(name)) for name in rows | columns}

    def prepared(self, name: str, weights: Float, start: int = 0) -> Float:
        """What is stored, by its codec, of a tensor's rows from row `start` on: the same, or smoothed."""
        factor = self.factors.get(name)
        return factor.apply(weights, start) if factor else weights

    def calibrated(self, calibration: Calibration) -> PartPlan:
        """The plan with what calibration found.

        Raises:
            ArtifactError: it was found for other tensors.
        """
        widths = {p.slot.follows[0]: p.slot.shape[-1] for p in self.tensors if p.slot.follows}
        for name, exponents in calibration.smoothing.items():
            if widths.get(name) != len(exponents):
                raise ArtifactError(
                    f"calibration of {self.role}: {len(exponents)} channels behind {name}",
                    allowed=f"{widths.get(name, 'none')}, by config.json",
                )
        for planned in self.tensors:
            if planned.codec == "int8" and planned.slot.name not in calibration.ranges:
                raise ArtifactError(f"calibration of {self.role}: no range of what enters {planned.slot.name}")
        return replace(self, calibration=calibration)

    def histogram(self) -> dict[str, int]:
        """How many weights are stored as which type."""
        counts: Counter[str] = Counter()
        for planned in self.tensors:
            counts[planned.codec] += planned.tensor.size
        return dict(sorted(counts.items()))


def plan(family: Family, role: str, config: Any, checkpoint: Checkpoint, level: Level) -> PartPlan:
    """Plan one part.

    Raises:
        CheckpointError: a tensor is missing or has the wrong shape.
    """
    slots = family.roles[role].slots(config)
    stored = tensors_of(family, checkpoint, slots)
    tensors = [Planned(slot, stored[slot.name], codec_of(slot, level), shape_of(slot, level)) for slot in slots]
    return PartPlan(family, role, level, checkpoint, config, tuple(tensors))


# llama.cpp's own choices for rows that do not divide into blocks of 256.
_FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}


def codec_of(slot: Slot, level: Level) -> str:
    """The type that a tensor gets at a level."""
    if level.format == "onnx":
        return "float32" if slot.keep else level.codec_of(slot.kind, slot.place)
    if slot.keep:
        return slot.keep
    width, codec = shape_of(slot, level)[-1], level.codec_of(slot.kind, slot.place)
    if width % codecs.block(codec)[0]:
        codec = _FALLBACK.get(codec, "F16")
    return codec if width % codecs.block(codec)[0] == 0 else "F16"


def shape_of(slot: Slot, level: Level) -> tuple[int, ...]:
    """The shape that a tensor gets at a level: where blocks demand it, its padded axis grows to whole blocks."""
    if level.format == "onnx" or slot.padded is None:
        return slot.shape
    block = codecs.block(level.codec)[0]
    shape = list(slot.shape)
    shape[slot.padded] = -(-shape[slot.padded] // block) * block
    return tuple(shape)
