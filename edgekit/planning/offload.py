"""What of a model goes to a GPU: as much as a budget of video memory holds, in a fixed order.

The library takes the output layer first, then layers from the last to the first, and a layer's keys and values lie
where its weights do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

# What a driver takes beside our buffers (compiled kernels, staging), and others at the same time.
RESERVE_BYTES = 300_000_000


@dataclass(frozen=True)
class Sizes:
    """What the parts of a model take of video memory, in bytes.

    Attributes:
        output: the last matrix, and the logits of a batch; with what computing takes at all.
        layers: each layer's weights with its keys and values, from the first to the last.
        vision: the vision part with its intermediate results; 0 without one.
    """

    output: int
    layers: tuple[int, ...]
    vision: int = 0

    @property
    def all(self) -> int:
        """What everything takes."""
        return self.output + sum(self.layers) + self.vision


@dataclass(frozen=True)
class Plan:
    """What goes to the GPU.

    Attributes:
        layers: as the library counts them: the output is the first, then layers from the last one; 0 for none.
        vision: whether the vision part does, which goes whole or not at all.
        bytes: of video memory that this takes.
    """

    layers: int
    vision: bool
    bytes: int


def plan(budget: int, sizes: Sizes) -> Plan:
    """What a budget of video memory holds, never more.

    The vision part goes first, if all of it fits: an image is thousands of positions, and what the CPU takes longest
    for. Then the output layer, then as many layers as fit, from the last one, each with its keys and values, which are
    of no use away from it. A larger budget never holds less: neither fewer bytes, nor fewer layers beside the same
    vision part, nor no vision part where a smaller one held it.

    Args:
        budget: bytes; 0 or less holds nothing.
    """
    vision = 0 < sizes.vision <= budget
    spent = sizes.vision if vision else 0
    steps = [total for total in accumulate([sizes.output, *reversed(sizes.layers)]) if total <= budget - spent]
    return Plan(len(steps), vision, spent + (steps[-1] if steps else 0))


def decoder_compute(batch: int, vocabulary: int, wide: int, hidden: int, positions: int) -> int:
    """Intermediate results of a batch, in single precision: logits, both halves of a gated layer, masks.

    Args:
        positions: that all contexts hold together.
    """
    return 4 * batch * (vocabulary + 3 * wide + 8 * hidden + 2 * positions)


def vision_compute(patches: int, hidden: int, wide: int) -> int:
    """Intermediate results of an image; attention is fused: scores of all patches lie nowhere."""
    return 4 * patches * (6 * hidden + 3 * wide)
