"""Decoders and encoders that have one user at a time: what every backend of edgekit's does around its library's calls.

A backend implements the calls alone; whose turn it is, what is closed and what is no input is decided here, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.runtime.base import Encoder, EncoderSpec, Float, Segment, check_batch, check_prompt, check_step
from edgekit.runtime.ownership import Owned, Ownership


class OwnedDecoder(Owned):
    """The part of `edgekit.runtime.base.Decoder` that does not depend on a library.

    A sequence belongs to the answer, or else to the thread, whose prompt it began with: nobody else can continue it by
    a step. What can do more than hold one sequence is an `edgekit.runtime.sequences.OwnedSequences`.

    Attributes:
        hidden: width of embeddings.
        sequences: how many it holds; each has a length, positions that its cache holds, and a user.
    """

    noun = "decoder"
    context: int
    vocabulary: int
    hidden: int
    sequences: int = 1
    warnings: tuple[str, ...] = ()
    _lengths: dict[int, int]
    _users: dict[int, object]
    _changes: Counter[int]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Holds nothing at the start."""
        made = super().__new__(cls)
        made._lengths, made._users, made._changes = {}, {}, Counter()
        return made

    def length(self, sequence: int = 0) -> int:
        """See `edgekit.runtime.base.SupportsSequences.length`."""
        self._check_sequence(sequence)
        return self._lengths.get(sequence, 0)

    def prefill(
        self, segments: Sequence[Segment], want: Sequence[int] | None = None, *, sequence: int = 0
    ) -> Iterator[Float]:
        """See `edgekit.runtime.base.Decoder.prefill`. It begins when the first row is asked for."""
        self.check_usable()
        self._check_sequence(sequence)
        total = check_prompt(segments, self.context, self.hidden, self.vocabulary)
        self._check_segments(segments)
        wanted = [total - 1] if want is None else list(want)
        return self._streaming("a prompt", lambda: self._begin(segments, wanted, sequence), inside=True)

    def _begin(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        self._empty(sequence)
        return self._rows(segments, wanted, sequence)

    def step(self, ids: Sequence[int], *, sequence: int = 0) -> Float:
        """See `edgekit.runtime.base.Decoder.step`."""
        with self._using("a step", inside=True):
            check_step(ids, self.length(sequence), self.context, self.vocabulary)
            if not self.length(sequence):
                self._take_over(sequence)
            elif self._users.get(sequence) is not self.ownership.user:
                raise UsageError("a step behind another's prompt", remedy="prefill again, or open the model twice")
            self._changes[sequence] += 1
            return self._step(ids, sequence)

    def changes(self, sequence: int = 0) -> int:
        """See `edgekit.runtime.base.SupportsSequences.changes`."""
        return self._changes[sequence]

    def _take_over(self, sequence: int) -> None:
        self._users[sequence] = self.ownership.user
        self._changes[sequence] += 1

    def _empty(self, sequence: int) -> None:
        """Take a sequence over, and drop all that it holds."""
        self._take_over(sequence)
        self._lengths[sequence] = 0
        self._clear(sequence)

    def _check_sequence(self, sequence: int) -> None:
        """Raise UsageError where there is no such sequence."""
        if sequence not in range(self.sequences):
            most = self.sequences - 1
            raise UsageError(f"no sequence {sequence!r:.40}", allowed=f"0 to {most}" if most else "0")

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        """Raise InputError for what only this backend cannot take."""

    def _clear(self, sequence: int) -> None:
        """Empty the cache of a sequence."""
        raise NotImplementedError

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        """Append segments to a sequence, counting its length, and yield the wanted positions' logits.

        Between two calls of its library it asks `check_usable`, so that closing need not wait for the whole prompt.
        """
        raise NotImplementedError

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        """Append tokens to a sequence, counting its length; the logits after the last one."""
        raise NotImplementedError


class OwnedEncoder(Owned):
    """The part of `edgekit.runtime.base.Encoder` that does not depend on a library."""

    noun = "encoder"
    spec: EncoderSpec

    def encode(self, batch: NDArray[Any]) -> Float:
        """See `edgekit.runtime.base.Encoder.encode`."""
        with self._using("encoding", inside=True):
            check_batch(batch, self.spec)
            return self._encode(batch)

    def _encode(self, batch: NDArray[Any]) -> Float:
        """A batch of the right kind and shape, encoded."""
        raise NotImplementedError


class LaterEncoder(OwnedEncoder):
    """An encoder that is loaded when the first item comes: to load one takes seconds, and some items are known."""

    def __init__(self, spec: EncoderSpec, load: Callable[[], Encoder]) -> None:
        self.spec, self._load = spec, load
        self._loaded: Encoder | None = None

    def _encode(self, batch: NDArray[Any]) -> Float:
        if self._loaded is None:
            self._loaded = self._load()
            join(self, self._loaded)
        return self._loaded.encode(batch)

    def _free(self) -> None:
        if self._loaded:
            self._loaded.close()


def join(*parts: object) -> Ownership:
    """One owner for the parts of a model. Parts that know of none are used through the model alone."""
    owned = [part for part in parts if isinstance(part, Owned)]
    ownership = owned[0].ownership if owned else Ownership()
    for part in owned:
        part.ownership = ownership
    return ownership
