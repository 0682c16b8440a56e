"""Threads that follow the load: a step waits for its slowest thread, and one that shares its core with another program
is slower than none.

llama.cpp's threads meet at barriers many times a token. Where another program keeps one of two cores busy, two threads
decode at a quarter of their speed, and one at almost two thirds (one core draws most of the memory's bandwidth).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from edgekit.machine.cpu import cpu
from edgekit.runtime.base import SupportsThreads

_LOOK_S = 0.3
_AGREEING = 2  # looks in a row that find the same, before anything changes


def foreign_cores() -> Callable[[], float]:
    """How many cores other programs kept busy since the last call, on average; 0 at the first."""
    last: list[float] = []

    def read() -> float:
        times, own, now = psutil.cpu_times(), time.process_time(), time.monotonic()
        idle = times.idle + getattr(times, "iowait", 0.0)
        busy = sum(times[:7]) - idle  # guests are counted as users, too
        before, last[:] = list(last), [busy, own, now]
        if not before or now <= before[2]:
            return 0.0
        return max(0.0, float((busy - before[0]) - (own - before[1])) / (now - before[2]))

    return read


class ThreadsByLoad:
    """How many threads a decoder uses for single steps: as many as there are cores that nobody else keeps busy."""

    def __init__(
        self, decoder: SupportsThreads, foreign: Callable[[], float] | None = None, cores: int | None = None
    ) -> None:
        """Args:
        foreign: gives the cores that others keep busy, since it was asked last.
        cores: that may be used; this process's for None.
        """
        self._decoder, self._foreign = decoder, foreign or foreign_cores()
        self._cores = cores or cpu().usable_cores
        self._threads, self._most = decoder.threads_in_use
        self._used, self._wanted, self._agreed = self._most, self._most, 0
        self._looked = time.monotonic()
        self._foreign()

    def before_a_step(self) -> None:
        """Look, now and then, and change the number of threads where what is seen lasts."""
        now = time.monotonic()
        if self._most < 2 or now - self._looked < _LOOK_S:
            return
        self._looked = now
        free = self._cores - self._foreign()
        wanted = min(self._most, max(1, int(free + 0.5)))
        self._agreed = self._agreed + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if wanted != self._used and self._agreed >= _AGREEING:
            self._decoder.set_threads(self._threads, wanted)
            self._used = wanted
