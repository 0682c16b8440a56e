"""The ledger of a benchmark: every outcome once, whoever measured it, however often it comes in, in whatever order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from edgekit.bench import journal
from edgekit.bench.cells import Cell, Outcome


class Ledger:
    """Outcomes by row, task and round, and what earlier runs wrote down.

    Args:
        work: the folder of the journals.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._lock = work, threading.Lock()
        self._finished = journal.read(work)
        self._keys: dict[tuple[str, str, int], str] = {}
        self._outcomes: dict[tuple[str, str, int], Outcome] = {}

    def of(self, row: str, task: str) -> Sequence[Outcome]:
        """The outcomes of a task on a row: one, or one a round in their order."""
        rounds = sorted(place for place in self._outcomes if place[:2] == (row, task))
        return [self._outcomes[place] for place in rounds]

    def expect(self, row: str, task: str, number: int, key: str) -> bool:
        """An outcome is wanted, and written down under this key when it comes in.

        Args:
            number: its round.

        Returns:
            Whether an earlier run wrote it down, so that it need not be measured.
        """
        place = (row, task, number)
        self._keys[place] = key
        if (known := self._finished.get(key)) and known.task == task:
            self._outcomes[place] = known
        return place in self._outcomes

    def forget(self, key: str) -> None:
        """What an earlier run wrote down under this key must be measured again."""
        self._finished.pop(key, None)

    def remove(self, row: str, task: str) -> None:
        """No figure follows from what was written down of a task on a row: another run must measure it again."""
        places = [place for place in self._outcomes if place[:2] == (row, task) and place in self._keys]
        journal.remove(self._work, {self._keys[place] for place in places})

    def take(self, cell: Cell, outcome: Outcome) -> bool:
        """An outcome comes in, from any thread; one that comes again changes nothing. Whether it was the first."""
        place = (cell.row, outcome.task, cell.round)
        with self._lock:
            if place in self._outcomes:
                return False
            if outcome.error is None:
                journal.append(self._work, self._keys[place], outcome)
            self._outcomes[place] = outcome
            return True
