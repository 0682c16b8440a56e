"""Room for cells: the cores and the memory of each machine, taken and given back."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from edgekit.bench.cells import Cell
from edgekit.bench.execute import needed_bytes
from edgekit.errors import EdgekitError


@dataclass
class _Free:
    """What nobody has taken of a machine."""

    cores: list[int]
    bytes: int
    running: int = 0


class Room:
    """Several machines' cores and memory. One cell may always run on a machine where nothing else does.

    Args:
        machines: name -> its cores, and its free memory in bytes.
    """

    def __init__(self, machines: Mapping[str, tuple[int, int]]) -> None:
        self._all = {name: cores for name, (cores, _) in machines.items()}
        self._free = {name: _Free(list(range(cores)), size) for name, (cores, size) in machines.items()}
        self._changed = threading.Condition()

    @contextmanager
    def place(self, cell: Cell, among: Collection[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Wait for room on one of these machines and hold it: its name, and the cores.

        Raises:
            EdgekitError: none of them is there any more.
        """
        with self._changed:
            while (name := self._roomiest(cell, among)) is None:
                self._changed.wait()
            free, count, size = self._free[name], self._count(cell, name), needed_bytes(cell.weights)
            taken, free.cores = free.cores[:count], free.cores[count:]
            free.bytes, free.running = free.bytes - size, free.running + 1
        try:
            yield name, tuple(taken)
        finally:
            with self._changed:
                free.cores, free.bytes = sorted(free.cores + taken), free.bytes + size
                free.running -= 1
                self._changed.notify_all()

    def lose(self, name: str) -> None:
        """A machine is gone: nothing is placed there any more."""
        with self._changed:
            self._free.pop(name, None)
            self._changed.notify_all()

    def _count(self, cell: Cell, name: str) -> int:
        return min(cell.threads or self._all[name], self._all[name])

    def _roomiest(self, cell: Cell, among: Collection[str]) -> str | None:
        there = [name for name in among if name in self._free]
        if not there:
            raise EdgekitError("no machine is left that it could run on")
        name = max(there, key=lambda one: len(self._free[one].cores))
        free = self._free[name]
        fits = len(free.cores) >= self._count(cell, name) and free.bytes >= needed_bytes(cell.weights)
        return name if fits or not free.running else None
