"""Decoders that hold several sequences, cut them and give them as bytes: what every backend does around its library.

A backend says how its cache is read, written and freed; what may be cut and what may be restored is decided here, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from edgekit.errors import InputError, SnapshotError, UsageError
from edgekit.runtime.base import MOST_ROWS, Float, Segment, Tokens, check_prompt, check_step
from edgekit.runtime.owned_parts import OwnedDecoder
from edgekit.runtime.snapshots import pack, unpack

MOST_SEQUENCES = 256  # llama.cpp's own limit


def check_sequences(sequences: int) -> None:
    """Raise UsageError where no decoder can hold so many."""
    if sequences not in range(1, MOST_SEQUENCES + 1):
        raise UsageError(f"{sequences!r:.40} sequences", allowed=f"1 to {MOST_SEQUENCES}")


class OwnedSequences(OwnedDecoder):
    """`SupportsSequences`, `SupportsTruncate` and `SupportsSnapshot` of `edgekit.runtime.base`, short of a library.

    Attributes:
        window: positions that local layers see, their own included; 0 where all layers see all.
        cache_types: what keys and values may be rounded to.
        cache_type: what they are.
    """

    batched: bool = False
    window: int = 0
    cache_types: tuple[str, ...] = ("f32",)
    cache_type: str = "f32"

    def extend(
        self, segments: Sequence[Segment], want: Sequence[int] | None = None, *, sequence: int = 0
    ) -> Iterator[Float]:
        """See `edgekit.runtime.base.SupportsSequences.extend`. It begins when the first row is asked for."""
        self.check_usable()
        self._wanted(segments, want, sequence)
        return self._streaming("a prompt", lambda: self._append(segments, want, sequence), inside=True)

    def _append(self, segments: Sequence[Segment], want: Sequence[int] | None, sequence: int) -> Iterator[Float]:
        wanted = self._wanted(segments, want, sequence)  # once more: the sequence may have grown meanwhile
        self._take_over(sequence)
        return self._rows(segments, wanted, sequence)

    def _wanted(self, segments: Sequence[Segment], want: Sequence[int] | None, sequence: int) -> list[int]:
        """Positions whose logits are wanted. Raises InputError where the segments do not fit, or have no such."""
        held = self.length(sequence)
        total = held + check_prompt(segments, self.context, self.hidden, self.vocabulary, held)
        self._check_segments(segments)
        wanted = [total - 1] if want is None else list(want)
        wrong = next((position for position in wanted if position not in range(held, total)), None)
        if wrong is not None:
            raise InputError(f"logits of position {wrong!r:.40}", allowed=f"{held} to {total - 1}, of these segments")
        return wanted

    def decode(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, Float]:
        """See `edgekit.runtime.base.SupportsSequences.decode`."""
        with self._using("a step of several sequences", inside=True):
            count = sum(map(len, tokens.values()))
            if not 0 < count <= MOST_ROWS:
                raise InputError(f"{count} tokens in one call", allowed=f"1 to {MOST_ROWS}")
            for sequence, ids in tokens.items():
                check_step(ids, self.length(sequence), self.context, self.vocabulary)
            for sequence in tokens:
                if not self.length(sequence):
                    self._take_over(sequence)
                self._changes[sequence] += 1
            return self._decode_all(tokens)

    def _decode_all(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, Float]:
        """Append tokens to sequences, counting their lengths; the logits after each: one after the other."""
        return {sequence: self._decode_one(tuple(ids), sequence) for sequence, ids in tokens.items()}

    def _decode_one(self, ids: tuple[int, ...], sequence: int) -> Float:
        start = self.length(sequence)
        return np.stack(list(self._rows([Tokens(ids)], range(start, start + len(ids)), sequence)))

    def shortest(self, sequence: int = 0) -> int:
        """See `edgekit.runtime.base.SupportsTruncate.shortest`."""
        with self._using("a look at its cache", inside=True):
            return self._shortest(sequence)

    def _shortest(self, sequence: int) -> int:
        """The position behind a cut sees `window - 1` before itself: the first of them must still be there."""
        if not (held := self.length(sequence)):
            return 0
        first = self._first(sequence)
        return min(held, first + self.window - 1 if first else 1)

    def truncate(self, length: int, *, sequence: int = 0) -> None:
        """See `edgekit.runtime.base.SupportsTruncate.truncate`."""
        with self._using("a cut", inside=True):
            held, least = self.length(sequence), self._shortest(sequence)
            if length != 0 and length not in range(least, held + 1):
                what, allowed = f"a sequence of {held} tokens", f"0, or {least} to {held}" if held else "0"
                raise UsageError(f"{what} cut to {length!r:.40}", allowed=allowed, remedy="prefill again")
            if length == 0:
                self._empty(sequence)
            elif length < held:
                self._cut(length, sequence)
                self._lengths[sequence] = length
            self._take_over(sequence)

    def snapshot(self, *, sequence: int = 0) -> bytes:
        """See `edgekit.runtime.base.SupportsSnapshot.snapshot`."""
        with self._using("a snapshot", inside=True):
            held = self.length(sequence)
            return pack(self._identity, held, self._save(sequence) if held else b"")

    def restore(self, data: bytes, *, sequence: int = 0) -> None:
        """See `edgekit.runtime.base.SupportsSnapshot.restore`."""
        with self._using("a restoration", inside=True):
            self._check_sequence(sequence)
            self._empty(sequence)
            held, state = unpack(data, self._identity, self.context)
            if held:
                try:
                    self._load(state, held, sequence)
                except SnapshotError:
                    self._clear(sequence)
                    raise
            self._lengths[sequence] = held

    @cached_property
    def _identity(self) -> str:
        """What must be alike where a snapshot is restored."""
        common = {
            "hidden": self.hidden, "vocabulary": self.vocabulary, "window": self.window, "cache": self.cache_type,
        }  # fmt: skip
        return ", ".join(f"{name} {value}" for name, value in {**self._described(), **common}.items())

    def _described(self) -> Mapping[str, object]:
        """What else tells this decoder's snapshots from others': its library, its layers, its file."""
        raise NotImplementedError

    def _first(self, sequence: int) -> int:
        """The first position that all layers still hold, of a sequence that is not empty."""
        raise NotImplementedError

    def _cut(self, length: int, sequence: int) -> None:
        """Forget the positions from `length` on, which is less than the sequence's."""
        raise NotImplementedError

    def _save(self, sequence: int) -> bytes:
        """What the cache holds of a sequence that is not empty."""
        raise NotImplementedError

    def _load(self, state: memoryview, length: int, sequence: int) -> None:
        """Have an empty sequence hold what `_save` gave of so many positions. Raises SnapshotError where it cannot."""
        raise NotImplementedError
