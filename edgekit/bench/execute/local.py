"""Cells in worker processes on this machine."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from edgekit.bench import worker
from edgekit.bench.cells import Cell, Outcome, complete
from edgekit.bench.execute import Receiver
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory
from edgekit.machine.worker import Workers

_PROCESS_BYTES = 1_000_000_000  # Python, torch and transformers before any weight
_BYTES_PER_WEIGHT = 6  # float32, and half as much again while it is loaded


class Local:
    """A process a cell: side by side on one core each, as far as cores and memory go, or one after the other."""

    def __init__(self) -> None:
        self._workers = Workers()

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
        width = _width(cells)
        cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for core in range(width):
            cores.put(core if width > 1 else None)

        def on_a_core(cell: Cell) -> None:
            core = cores.get()
            try:
                self._run(replace(cell, core=core), report)
            finally:
                cores.put(core)

        pool = ThreadPoolExecutor(width)
        finished = False
        try:
            list(pool.map(on_a_core, slow_first))
            finished = True
        finally:
            if not finished:  # interrupted: do not wait for what is running
                self.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, cell: Cell, report: Receiver) -> None:
        results = self._workers.results(worker.work, cell.job())
        for outcome in complete(cell, (Outcome(**result) for result in results)):
            report(cell, outcome)


def _width(cells: Sequence[Cell]) -> int:
    """How many cells run at the same time."""
    largest = max(cell.weights for cell in cells)
    fitting = memory().available_bytes // (_PROCESS_BYTES + _BYTES_PER_WEIGHT * largest)
    return max(1, min(cpu().usable_cores, fitting, len(cells)))
