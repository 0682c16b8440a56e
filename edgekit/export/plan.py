"""What one export writes: for each tensor of one part, its source and the type it is stored as.

Exporters write by this plan and the proof builds its reference by it, each reading the source for itself, so a wrong
name, transform or header in an exporter cannot repeat itself in the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgekit import codecs
from edgekit.checkpoint import Checkpoint, Tensor
from edgekit.families import Family, Slot
from edgekit.families.base import tensors_of
from edgekit.levels import Level

Progress = Callable[[int], None]  # called with the number of weights just written


@dataclass(frozen=True)
class Planned:
    """One tensor: where it comes from, how it is stored, and in which shape (zeros fill up what the source lacks)."""

    slot: Slot
    tensor: Tensor
    codec: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PartPlan:
    """One part at one level, ready to be written."""

    family: Family
    role: str
    level: Level
    checkpoint: Checkpoint
    config: Any
    tensors: tuple[Planned, ...]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(planned.tensor.size for planned in self.tensors)

    @property
    def bytes(self) -> int:
        """What its tensors take in a file."""
        if self.level.format == "gguf":
            return sum(codecs.stored_bytes(planned.codec, planned.shape) for planned in self.tensors)
        return sum(planned.tensor.size * np.dtype(planned.codec).itemsize for planned in self.tensors)

    @cached_property
    def codec_by_name(self) -> Mapping[str, str]:
        """Canonical tensor name -> codec, for the proof's reference."""
        return {planned.slot.name: planned.codec for planned in self.tensors}

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
        return "float32" if slot.keep else level.codec_of(slot.kind)
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
