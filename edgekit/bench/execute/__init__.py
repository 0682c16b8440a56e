"""Where cells run: on this machine in worker processes (`local`), or on a cluster (`ray`). Another place is another
file with these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from edgekit.bench.cells import Cell, Outcome
from edgekit.bench.environment import Environment

Receiver = Callable[[Cell, Outcome], None]
JobT = TypeVar("JobT")

_PROCESS_BYTES = 1_000_000_000  # Python, torch and transformers before any weight
_BYTES_PER_WEIGHT = 6  # float32, and half as much again while it is loaded


class Executor(Protocol):
    """Runs cells somewhere."""

    def environment(self, device: str | None) -> Environment:
        """What the machines of this tag are, all of them alike; of any machine for None.

        Raises:
            EdgekitError: there is none of this tag, or they differ in what figures depend on.
        """
        ...

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        """Run cells and report one outcome for each of their tasks, in any order and from any thread.

        Args:
            alone: one cell at a time, in this order, with the whole machine: its times count.
        """
        ...

    def stop(self) -> None:
        """End what is running, and start no more."""
        ...


def needed_bytes(weights: int) -> int:
    """Memory that a process needs at most which loads so many weights."""
    return _PROCESS_BYTES + _BYTES_PER_WEIGHT * weights


def threads(weights: int, here: Environment) -> int:
    """How many cores each cell gets where as many run side by side as the machine's whole memory holds.

    It follows from the model and the machine alone, not from what else runs or is left to do: a sum of floating point
    numbers depends on how many threads share it, and a figure must be the same after an interruption.
    """
    side_by_side = max(1, min(here.cores, here.memory_bytes // needed_bytes(weights)))
    return max(1, here.cores // side_by_side)


def side_by_side(work: Callable[[JobT], None], jobs: Sequence[JobT], width: int, stop: Callable[[], None]) -> None:
    """Work on so many jobs at a time.

    Args:
        stop: ends what is running, where this is interrupted and must not wait for it.
    """
    pool = ThreadPoolExecutor(width)
    finished = False
    try:
        list(pool.map(work, jobs))
        finished = True
    finally:
        if not finished:
            stop()
        pool.shutdown(wait=True, cancel_futures=True)
