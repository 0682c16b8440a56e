"""Cells in worker processes on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgekit.bench import worker
from edgekit.bench.cells import Cell, Outcome, complete
from edgekit.bench.environment import Environment, environment
from edgekit.bench.execute import Receiver, side_by_side
from edgekit.bench.execute.room import Room
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory
from edgekit.machine.worker import Workers

_HERE = "here"


class Local:
    """A process a cell: side by side on cores of their own, as far as cores and memory go, or one after the other."""

    def __init__(self) -> None:
        self._workers = Workers()

    def environment(self, device: str | None) -> Environment:
        """See `Executor.environment`; this machine has any tag."""
        return environment()

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        """See `Executor.run`."""
        if alone:
            for cell in cells:
                self._run(cell, report)
        elif cells:
            self._side_by_side(cells, report)

    def stop(self) -> None:
        """See `Executor.stop`."""
        self._workers.stop()

    def _side_by_side(self, cells: Sequence[Cell], report: Receiver) -> None:
        slow_first = sorted(cells, key=lambda cell: cell.model.level is not None)
        room = Room({_HERE: (cpu().usable_cores, memory().available_bytes)})

        def in_its_place(cell: Cell) -> None:
            with room.place(cell, (_HERE,)) as (_, cores):
                self._run(replace(cell, cores=cores), report)

        side_by_side(in_its_place, slow_first, min(len(cells), cpu().usable_cores), self.stop)

    def _run(self, cell: Cell, report: Receiver) -> None:
        for outcome in complete(cell, self._outcomes):
            if outcome.error is None or not self._workers.stopped:  # interrupted is not failed
                report(cell, outcome)

    def _outcomes(self, cell: Cell) -> Iterator[Outcome]:
        for result in self._workers.results(worker.work, cell.job()):
            yield Outcome(**result)
