"""Where cells run: on this machine in worker processes (`local`). Another place is another file with these methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edgekit.bench.cells import Cell, Outcome

Receiver = Callable[[Cell, Outcome], None]


class Executor(Protocol):
    """Runs cells somewhere."""

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        """Run cells and report one outcome for each of their tasks, in any order and from any thread.

        Args:
            alone: one cell at a time, in this order, with the whole machine: its times count.
        """
        ...

    def stop(self) -> None:
        """End what is running, and start no more."""
        ...
