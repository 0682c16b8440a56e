"""Answers that only repeat themselves: greedy decoding that has come round once goes round for ever.

Tables and lists repeat themselves too, for a while. So an answer counts as a loop only where its last `ENOUGH` tokens
are all equal to those one cycle before them, for one cycle of at most `LONGEST` tokens: a shorter run is never cut.
"""

from __future__ import annotations

LONGEST = 64
ENOUGH = 320


class Repetition:
    """Watches tokens as they come, at a cost that does not grow with their number."""

    def __init__(self) -> None:
        self._last: list[int] = []  # the latest first
        self._runs = [0] * LONGEST  # of each cycle's length: how many tokens in a row equal the one a cycle earlier

    def add(self, token: int) -> bool:
        """Whether the tokens so far, this one included, end in a loop."""
        for back, earlier in enumerate(self._last):
            self._runs[back] = self._runs[back] + 1 if earlier == token else 0
        self._last = [token, *self._last[: LONGEST - 1]]
        return max(self._runs) >= ENOUGH
