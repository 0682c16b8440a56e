"""Decoders and encoders that have one user at a time: what every backend of edgekit's does around its library's calls.

A backend implements the calls alone; whose turn it is, what is closed and what is no input is decided here, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.runtime.base import EncoderSpec, Float, Segment, check_batch, check_prompt, check_step
from edgekit.runtime.ownership import Owned, Ownership


class OwnedDecoder(Owned):
    """The part of `edgekit.runtime.base.Decoder` that does not depend on a library.

    A sequence belongs to the answer, or else to the thread, whose prompt it began with: nobody else can continue it.

    Attributes:
        hidden: width of embeddings.
        position: how many positions the cache holds.
    """

    noun = "decoder"
    context: int
    vocabulary: int
    hidden: int
    position: int = 0
    warnings: tuple[str, ...] = ()
    _user: object | None = None

    def prefill(self, segments: Sequence[Segment], want: Sequence[int] | None = None) -> Iterator[Float]:
        """See `edgekit.runtime.base.Decoder.prefill`. It begins when the first row is asked for."""
        self.check_usable()
        total = check_prompt(segments, self.context, self.hidden, self.vocabulary)
        self._check_segments(segments)
        wanted = [total - 1] if want is None else list(want)
        return self._streaming("a prompt", lambda: self._begin(segments, wanted), inside=True)

    def _begin(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        self._user, self.position = self.ownership.user, 0
        self._clear()
        return self._rows(segments, wanted)

    def step(self, ids: Sequence[int]) -> Float:
        """See `edgekit.runtime.base.Decoder.step`."""
        with self._using("a step", inside=True):
            check_step(ids, self.position, self.context, self.vocabulary)
            if not self.position:
                self._user = self.ownership.user
            elif self._user is not self.ownership.user:
                raise UsageError("a step behind another's prompt", remedy="prefill again, or open the model twice")
            return self._step(ids)

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        """Raise InputError for what only this backend cannot take."""

    def _clear(self) -> None:
        """Empty the cache."""
        raise NotImplementedError

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        """Append segments to the cache, counting `position`, and yield the wanted positions' logits.

        Between two calls of its library it asks `check_usable`, so that closing need not wait for the whole prompt.
        """
        raise NotImplementedError

    def _step(self, ids: Sequence[int]) -> Float:
        """Append tokens to the cache, counting `position`; the logits after the last one."""
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


def join(*parts: object) -> Ownership:
    """One owner for the parts of a model. Parts that know of none are used through the model alone."""
    owned = [part for part in parts if isinstance(part, Owned)]
    ownership = owned[0].ownership if owned else Ownership()
    for part in owned:
        part.ownership = ownership
    return ownership
