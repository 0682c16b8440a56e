"""One sequence of a decoder, and what it holds: what stands there already of a prompt is not decoded again.

Positions are compared by what they hold, a token by its id and an image by its content, so nothing is reused that is
not the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from edgekit.checkpoints.tensors import Float
from edgekit.errors import SnapshotError
from edgekit.runtime.base import Decoder, Embeddings, Segment, SupportsSequences, SupportsTruncate, Tokens

Key = int | tuple[str, int]  # a token's id, or an image's content and the place in it
CHUNK = 512  # positions after which whoever waits may give up


class HeldSequence:
    """A decoder's sequence, with a record of what it holds.

    Attributes:
        number: of the sequence.
        keys: what each position holds, as far as it is known.
        used: when it was used last, by `time.monotonic`.
    """

    def __init__(self, decoder: Decoder, number: int = 0) -> None:
        self.decoder, self.number = decoder, number
        self.keys: list[Key] = []
        self.used = 0.0
        self._changes = -1

    @property
    def verifies_drafts(self) -> bool:
        """Whether several tokens can be decoded in one call with a row behind each, and the wrong ones taken back."""
        return isinstance(self.decoder, SupportsSequences) and isinstance(self.decoder, SupportsTruncate)

    @property
    def extends(self) -> bool:
        """Whether a prompt can be decoded in several calls, or only as a whole."""
        return isinstance(self.decoder, SupportsSequences)

    def begin(self, segments: Sequence[Segment], most: int | None = None) -> tuple[int, list[Segment]]:
        """Keep what it has in common with a prompt, and nothing else.

        Args:
            most: positions that may be kept; all but the last, behind which logits are wanted, for None.

        Returns:
            how many positions that is, and what is left to be decoded.
        """
        keys = keys_of(segments)
        kept = self._keep(segments, keys, len(keys) - 1 if most is None else most)
        return kept, behind(segments, kept)

    def extend(self, segments: Sequence[Segment], *, want: bool) -> Float | None:
        """Append segments; the logits [vocabulary] behind the last of them, where they are wanted."""
        decoder = self.decoder
        if not isinstance(decoder, SupportsSequences):
            (row,) = decoder.prefill(segments)
            return row
        rows = list(decoder.extend(segments, None if want else (), sequence=self.number))
        self._holds([*self.keys, *keys_of(segments)])
        return rows[-1] if rows else None

    def rows(self, segments: Sequence[Segment], want: Sequence[int]) -> list[Float]:
        """Hold this prompt, and give the logits [vocabulary] behind wanted positions of it, ascending."""
        decoder = self.decoder
        if not isinstance(decoder, SupportsSequences):
            return list(decoder.prefill(segments, want))
        _, left = self.begin(segments, want[0])
        rows = list(decoder.extend(left, want, sequence=self.number))
        self._holds(keys_of(segments))
        return rows

    def decode_together(self, tokens: Mapping[int, Sequence[int]]) -> Mapping[int, Sequence[Float]]:
        """Append tokens to several sequences of this decoder; rows [n, vocabulary] behind each of a sequence's tokens.

        Each sequence is told by `took`.
        """
        if isinstance(self.decoder, SupportsSequences):
            return {number: list(rows) for number, rows in self.decoder.decode(tokens).items()}
        ((number, ids),) = tokens.items()
        return {number: [self.decoder.step(ids)]}

    def took(self, tokens: Sequence[int]) -> None:
        """These were appended to it."""
        self.keys += tokens
        self._holds(self.keys)

    def is_restored(self, keys: list[Key]) -> None:
        """The decoder was given these for it. Raises SnapshotError where it has another number of positions."""
        assert isinstance(self.decoder, SupportsSequences), "else nothing is restored"
        if (held := self.decoder.length(self.number)) != len(keys):
            raise SnapshotError(f"a conversation of {len(keys)} tokens whose snapshot has {held}", remedy="ask again")
        self._holds(keys)

    def take_back(self, count: int) -> None:
        """Forget the last positions: drafts that the answer did not follow."""
        if count:
            assert isinstance(self.decoder, SupportsTruncate), "else nothing is drafted"
            del self.keys[-count:]
            self.decoder.truncate(len(self.keys), sequence=self.number)
            self._holds(self.keys)

    def _keep(self, segments: Sequence[Segment], keys: list[Key], most: int) -> int:
        """Cut the sequence to what it has in common with a prompt, at most so many positions; how many they are."""
        decoder = self.decoder
        if not (isinstance(decoder, SupportsTruncate) and isinstance(decoder, SupportsSequences)):
            return 0
        known = self.keys if self._is_as_left(decoder) else []
        common = min(common_length(known, keys), most)
        common = next((start for start, end in image_places(segments) if start < common < end), common)
        if common < decoder.shortest(self.number):
            common = 0  # what is farther back is no longer there
        decoder.truncate(common, sequence=self.number)
        self._holds(keys[:common])
        return common

    def _is_as_left(self, decoder: SupportsSequences) -> bool:
        """Whether nobody else used the sequence meanwhile: who has the decoder may, a benchmark for one."""
        return (decoder.changes(self.number), decoder.length(self.number)) == (self._changes, len(self.keys))

    def _holds(self, keys: list[Key]) -> None:
        self.keys, self.used = keys, time.monotonic()
        if isinstance(self.decoder, SupportsSequences):
            self._changes = self.decoder.changes(self.number)


def common_length(one: Sequence[Key], other: Sequence[Key]) -> int:
    """How many positions two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def keys_of(segments: Sequence[Segment]) -> list[Key]:
    """What each position of a prompt holds."""
    keys: list[Key] = []
    for segment in segments:
        if isinstance(segment, Tokens):
            keys += segment.ids
        else:
            keys += [(segment.content_hash, place) for place in range(len(segment))]
    return keys


def ids_of(segment: Segment) -> Sequence[int]:
    """A segment's token ids, -1 for each position of an image."""
    return segment.ids if isinstance(segment, Tokens) else [-1] * len(segment)


def image_places(segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Where each image, whose tokens see each other, begins and ends."""
    start = 0
    for segment in segments:
        if isinstance(segment, Embeddings) and segment.bidirectional:
            yield start, start + len(segment)
        start += len(segment)


def behind(segments: Sequence[Segment], count: int) -> list[Segment]:
    """What stands behind so many positions."""
    left: list[Segment] = []
    for segment in segments:
        if count < len(segment):
            left.append(part(segment, count, len(segment)))
        count = max(0, count - len(segment))
    return left


def ahead_of(segments: Sequence[Segment], count: int) -> list[Segment]:
    """The first so many positions."""
    taken: list[Segment] = []
    for segment in segments:
        if count > 0:
            taken.append(part(segment, 0, min(count, len(segment))))
        count -= len(segment)
    return taken


def cut(segments: Sequence[Segment], most: int) -> tuple[list[Segment], list[Segment]]:
    """The first so many positions, and the rest. An image is never divided: it goes with the first or is all of it."""
    end = min(most, sum(map(len, segments)))
    for start, stop in image_places(segments):
        if start < end < stop:
            end = start or stop
    return ahead_of(segments, end), behind(segments, end)


def part(segment: Segment, start: int, end: int) -> Segment:
    """Some positions of a segment."""
    if isinstance(segment, Tokens):
        return Tokens(segment.ids[start:end])
    return replace(segment, array=segment.array[start:end])
