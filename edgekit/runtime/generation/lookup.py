"""Prompt lookup decoding: drafts copied from what stands there already, verified by the model in one batch.

An answer that quotes its context, a list or a report, says again what stood in the prompt or in itself. The last few
tokens are looked up there, and what followed them is the draft (Saxena 2023, prompt lookup decoding; after the
speculative decoding of Leviathan et al. 2023). Whatever the model would have chosen is what the answer gets.
"""

from __future__ import annotations

from collections.abc import Sequence

# Beside the last token it makes a batch of four rows, which llama.cpp's laid-out kernels take at once: fewer cost as
# much.
DRAFT = 3
_LENGTHS = (3, 2)  # of what is looked up, the longer first
_WARM = 8  # drafts before their worth is judged
_REST = 64  # tokens without drafts after which they are tried again
_SLOW = 0.1  # weight of the latest batch in the averages


class Lookup:
    """Drafts for one answer, as long as they pay.

    Attributes:
        drafted, taken: how many tokens were drafted, and how many of them the answer got.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        """Args: ids: of the prompt; what stands for an image, which no text quotes, as -1."""
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}  # what was said -> where what followed it begins, the latest
        self.drafted = self.taken = 0
        self._row_s: float | None = None
        self._batch_s: float | None = None
        self._tokens = 0.0  # that a batch with a draft gives
        self._batches = 0
        self._resting = 0
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """A token of the prompt or the answer."""
        # What ends with the token before is known from now on: what follows it is this one.
        for length in _LENGTHS:
            if len(self._ids) >= length:
                self._places[tuple(self._ids[-length:])] = len(self._ids)
        self._ids.append(token)
        self._resting = max(0, self._resting - 1)

    def draft(self, most: int) -> list[int]:
        """What may follow, at most so many tokens and never more than `DRAFT`; nothing where that does not pay."""
        if self._resting or most < 1:
            return []
        for length in _LENGTHS:
            at = self._places.get(tuple(self._ids[-length:])) if len(self._ids) >= length else None
            if at is not None:
                found = self._ids[at : at + min(DRAFT, most)]
                return found[: found.index(-1)] if -1 in found else found
        return []

    def told(self, drafted: int, taken: int, seconds: float) -> None:
        """What a call of the decoder took, and how much of its draft the answer got."""
        self.drafted += drafted
        self.taken += taken
        if not drafted:
            self._row_s = _average(self._row_s, seconds)
            return
        self._batches += 1
        self._batch_s = _average(self._batch_s, seconds)
        self._tokens += (1 + taken - self._tokens) / min(self._batches, 1 / _SLOW)
        if self._batches >= _WARM and self._row_s and self._tokens * self._row_s < self._batch_s:
            self._resting, self._batches, self._tokens = _REST, 0, 0.0


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + _SLOW * (now - before)
