"""A decoder and an encoder in numpy, for whoever needs a model without its weights: small, exact, the same every time.

They keep the seam's rules (`edgekit.runtime.base`) as the real ones do: text is causal, an image's tokens see each
other, what was decoded stays until the next prompt, and what is closed refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SnapshotError
from edgekit.runtime.base import Embeddings, EncoderSpec, Float, Segment, Tokens
from edgekit.runtime.owned_parts import OwnedEncoder
from edgekit.runtime.sequences import OwnedSequences, check_sequences

_FEATURES = 64
_FADING = 0.02  # how much less a position counts for each one that lies between


class StubDecoder(OwnedSequences):
    """One layer of attention with random weights: `edgekit.runtime.base.Decoder`, and all that is beside it."""

    def __init__(
        self, *, hidden: int = 32, vocabulary: int = 64, context: int = 256, seed: int = 0, sequences: int = 1
    ) -> None:
        check_sequences(sequences)
        self.hidden, self.vocabulary, self.context, self.sequences = hidden, vocabulary, context, sequences
        self._seed = seed
        self._table: Float = np.random.default_rng(seed).normal(0, 1, (vocabulary, hidden)).astype(np.float32)
        self._items: dict[int, Float] = {}
        self._ends: dict[int, NDArray[np.int64]] = {}  # of each position: how far it sees
        for sequence in range(sequences):
            self._clear(sequence)

    def _clear(self, sequence: int) -> None:
        self._items[sequence] = np.zeros((0, self.hidden), np.float32)
        self._ends[sequence] = np.zeros(0, np.int64)

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        for segment in segments:
            self._add(segment, sequence)
        return (self._logits(position, sequence) for position in wanted)

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        self._add(Tokens(tuple(ids)), sequence)
        return self._logits(self.length(sequence) - 1, sequence)

    def _add(self, segment: Segment, sequence: int) -> None:
        start, count = self.length(sequence), len(segment)
        items = segment.array if isinstance(segment, Embeddings) else self._table[[*segment.ids]]
        whole = isinstance(segment, Embeddings) and segment.bidirectional
        ends = np.full(count, start + count) if whole else np.arange(start, start + count) + 1
        self._items[sequence] = np.concatenate([self._items[sequence], items])
        self._ends[sequence] = np.concatenate([self._ends[sequence], ends])
        self._lengths[sequence] = start + count

    def _logits(self, position: int, sequence: int) -> Float:
        items, ends = self._items[sequence], self._ends[sequence]
        seen, item = items[: ends[position]], items[position]
        scores = seen @ item / self.hidden - _FADING * np.abs(np.arange(len(seen)) - position)
        weights = np.exp(scores - scores.max())
        return np.asarray(self._table @ (item + weights @ seen / weights.sum()), np.float32)

    def _first(self, sequence: int) -> int:
        return 0

    def _cut(self, length: int, sequence: int) -> None:
        self._items[sequence], self._ends[sequence] = self._items[sequence][:length], self._ends[sequence][:length]

    def _described(self) -> Mapping[str, object]:
        return {"stub": self._seed}

    def _save(self, sequence: int) -> bytes:
        return self._items[sequence].tobytes() + self._ends[sequence].tobytes()

    def _load(self, state: memoryview, length: int, sequence: int) -> None:
        size = 4 * length * self.hidden
        if len(state) != size + 8 * length:
            raise SnapshotError(f"{len(state)} bytes of {length} tokens", allowed=str(size + 8 * length))
        self._items[sequence] = np.frombuffer(state[:size], np.float32).reshape(length, self.hidden)
        self._ends[sequence] = np.frombuffer(state[size:], np.int64)

    def _free(self) -> None:
        self._table = np.zeros((0, self.hidden), np.float32)


class StubEncoder(OwnedEncoder):
    """A random projection of an item's mean values: `edgekit.runtime.base.Encoder`."""

    def __init__(self, spec: EncoderSpec, *, hidden: int = 32, tokens: int = 1, seed: int = 0) -> None:
        """Args: tokens: of one image, where the output is `image_tokens`."""
        self.spec = spec
        shape = (_FEATURES, tokens, hidden) if spec.output == "image_tokens" else (_FEATURES, hidden)
        self._weights: Float = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)

    def _encode(self, batch: NDArray[Any]) -> Float:
        means = [[part.mean() for part in np.array_split(item.ravel(), min(_FEATURES, item.size))] for item in batch]
        features = np.zeros((len(batch), _FEATURES), np.float32)
        features[:, : len(means[0])] = means
        scaled = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-6)
        return np.asarray(np.tanh(np.tensordot(scaled, self._weights, 1)), np.float32)

    def _free(self) -> None:
        self._weights = np.zeros(0, np.float32)
