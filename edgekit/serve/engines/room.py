"""Memory: what a model needs before it is loaded, and what is free for it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import psutil

from edgekit.machine.memory import memory

MOST_SLOTS = 4  # by default: on a CPU, more answers at once make each slower than people read
# Python, numpy, a runtime and a tokenizer of 262,144 tokens, beside the weights.
PROCESS_BYTES = 512 << 20


@dataclass(frozen=True)
class Need:
    """What a model takes, in bytes.

    Attributes:
        weights: its parts.
        contexts: of one slot, of two, ...
    """

    weights: int
    contexts: tuple[int, ...]

    def with_slots(self, slots: int) -> int:
        """All of it, with so many slots."""
        return PROCESS_BYTES + self.weights + self.contexts[slots - 1]

    def slots_within(self, free: int, least: int = 1) -> int | None:
        """As many slots as find room; None where not even the least do."""
        fitting = [slots for slots in range(least, len(self.contexts) + 1) if self.with_slots(slots) <= free]
        return max(fitting, default=None)


def free_bytes(processes: Collection[int]) -> int:
    """Memory that another model may take.

    Args:
        processes: engines that run. Files that they have mapped count as available by the system, which could read
            them again; but then every answer would wait for the disk.
    """
    mapped = 0
    for pid in processes:
        with suppress(psutil.NoSuchProcess):  # it ended just now
            mapped += getattr(psutil.Process(pid).memory_info(), "shared", 0)
    return max(memory().available_bytes - mapped, 0)
