"""Several answers under way with one decoder, each in a sequence of its own, decoded together.

No thread runs by itself: whoever waits for a piece of an answer has the decoder make the next step, for all answers at
once, while the others who wait find theirs done. A prompt is decoded in chunks between the steps of other answers, so
that these go on; which sequence it gets is decided by what the sequences hold already.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgekit.errors import UsageError
from edgekit.runtime.base import MOST_ROWS, Decoder, Segment, SupportsSequences, SupportsThreads
from edgekit.runtime.generation.answer import Answer, Piece
from edgekit.runtime.generation.held import CHUNK, HeldSequence, Key, common_length, cut, keys_of
from edgekit.runtime.generation.load import ThreadsByLoad

_AGAIN = "ask again"
_MOST_AHEAD = 15  # tokens of an answer that a grammar leaves no choice of, decoded at once
_BESIDE = 128  # positions of a prompt that are decoded at once while others' answers go on: they wait for it


class Running:
    """An answer under way, or a prompt that is prepared for one.

    Attributes:
        sequence: where it stands.
        answer: None where only the prompt is wanted.
        cached: how many positions of the prompt were there already.
        pieces: what nobody has read yet.
        first: when the prompt was decoded, by `time.perf_counter`.
        failed: why it cannot go on; None where it can.
    """

    def __init__(self, sequence: HeldSequence, segments: Sequence[Segment], answer: Answer | None) -> None:
        self.sequence, self.answer = sequence, answer
        self.cached, self._left = sequence.begin(segments)
        self.pieces: deque[Piece] = deque()
        self.first: float | None = None
        self.failed: Exception | None = None

    @property
    def prefilling(self) -> bool:
        """Whether some of its prompt is not decoded yet."""
        return bool(self._left)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        if self.failed:
            return True
        return not self.prefilling if self.answer is None else self.answer.stopped is not None

    def prefill(self, most: int) -> None:
        """Decode some of the prompt, and behind its last position choose the first token."""
        chunk, left = cut(self._left, most) if self.sequence.extends else (self._left, [])
        row = self.sequence.extend(chunk, want=not left and self.answer is not None)
        self._left = left
        if not left:
            self.first = time.perf_counter()
            if self.answer is not None:
                pieces, _ = self.answer.take([row] if row is not None else [])
                self.pieces += pieces


class Engine:
    """The sequences of a decoder, and the answers under way in them.

    Attributes:
        running: in the order in which they came.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        count = decoder.sequences if isinstance(decoder, SupportsSequences) else 1
        self.sequences = [HeldSequence(decoder, number) for number in range(count)]
        self.running: list[Running] = []
        self._load = ThreadsByLoad(decoder) if isinstance(decoder, SupportsThreads) else None

    @property
    def verifies_drafts(self) -> bool:
        """Whether several tokens of an answer can be decoded in one call, and the wrong ones taken back."""
        return self.sequences[0].verifies_drafts

    def free(self, keys: Sequence[Key]) -> HeldSequence | None:
        """The sequence in which a prompt begins: one that holds what it begins with, and less than as much again; else
        the one whose loss costs least: the shorter and the longer unused, an empty one first. None where all are taken.
        """
        taken = {running.sequence.number for running in self.running}
        free = [sequence for sequence in self.sequences if sequence.number not in taken]
        alike = {sequence: common_length(sequence.keys, keys) for sequence in free}
        continued = [sequence for sequence in free if 2 * alike[sequence] > len(sequence.keys)]
        if continued:
            return max(continued, key=alike.__getitem__)
        now = time.monotonic()
        return min(free, key=lambda sequence: len(sequence.keys) / (1 + now - sequence.used), default=None)

    def start(self, segments: Sequence[Segment], answer: Answer | None) -> Running:
        """Give a prompt a sequence, which must be free."""
        sequence = self.free(keys_of(segments))
        assert sequence is not None, "whoever starts an answer has waited for a free sequence"
        running = Running(sequence, segments, answer)
        self.running.append(running)
        return running

    def end(self, running: Running) -> None:
        """What it held stays, for whoever continues it."""
        if running in self.running:
            self.running.remove(running)

    def step(self) -> None:
        """One call of the library for a prompt, and one for all answers whose prompts are decoded."""
        for running in self.running:
            if running.answer is not None and not running.done:
                with _failing(running):
                    running.pieces += running.answer.check()
        open_ = [running for running in self.running if not running.done]
        decoding = [running for running in open_ if not running.prefilling]
        prefilling = next((running for running in open_ if running.prefilling), None)
        if prefilling:
            with _failing(prefilling):
                prefilling.prefill(_BESIDE if decoding else CHUNK)
        with _failing(*decoding):
            self._decode(decoding)

    def _decode(self, decoding: Sequence[Running]) -> None:
        if not decoding:
            return
        answers = {running.sequence.number: running for running in decoding[:MOST_ROWS]}
        if self._load:
            self._load.before_a_step()
        began = time.perf_counter()
        most = min(_MOST_AHEAD, MOST_ROWS // len(answers) - 1)
        ahead = {number: _ahead(running, most, alone=len(answers) == 1) for number, running in answers.items()}
        rows = self.sequences[0].decode_together(ahead)
        seconds = time.perf_counter() - began
        for number, running in answers.items():
            running.sequence.took(ahead[number])  # of all, before any of them may fail
        for number, running in answers.items():
            with _failing(running):
                assert running.answer is not None, "what has no answer is done with its prompt"
                pieces, kept = running.answer.take(rows[number], seconds)
                running.sequence.take_back(len(ahead[number]) - kept)
                running.pieces += pieces


@contextmanager
def _failing(*together: Running) -> Iterator[None]:
    """An error ends these, each for its own reader, and no other.

    Whoever reads one answer computes the others', too. So an error of any kind is kept for whom it belongs to; and what
    ends the thread that computes, as Ctrl-C does, leaves these where nobody knows how far they came.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
        for running in together:
            running.failed = error
    except BaseException:
        for running in together:
            running.failed = UsageError("the step that computed this answer was interrupted", remedy=_AGAIN)
        raise


def _ahead(running: Running, most: int, *, alone: bool) -> list[int]:
    """What an answer wants to be decoded; drafts only where no other sequence fills the batch."""
    assert running.answer is not None, "what has no answer is done with its prompt"
    return running.answer.ahead(most, drafts=alone)
