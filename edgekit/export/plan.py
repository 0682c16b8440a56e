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

from edgekit import codecs
from edgekit.checkpoint import Checkpoint, Tensor
from edgekit.families import Family, Slot
from edgekit.families.base import tensors_of
from edgekit.levels import Level

Progress = Callable[[int], None]  # called with the number of weights just written


@dataclass(frozen=True)
class Planned:
    """One tensor: where it comes from and how it is stored."""

    slot: Slot
    tensor: Tensor
    codec: str


@dataclass(frozen=True)
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
    tensors = tuple(Planned(slot, stored[slot.name], codec_of(slot, level)) for slot in slots)
    return PartPlan(family, role, level, checkpoint, config, tensors)


def codec_of(slot: Slot, level: Level) -> str:
    """The type that a tensor gets at a level."""
    if level.format == "onnx":
        return "float32" if slot.keep else level.codec_of(slot.kind)
    if slot.keep:
        return slot.keep
    codec = level.codec_of(slot.kind)
    # llama.cpp's own choice for a width that does not divide into blocks (so400m's MLP, 4304, in its second matrix).
    return codec if slot.shape[-1] % codecs.block(codec)[0] == 0 else "F16"
