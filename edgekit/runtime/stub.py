"""A decoder and an encoder in numpy, for whoever needs a model without its weights: small, exact, the same every time.

They keep the seam's rules (`edgekit.runtime.base`) as the real ones do: text is causal, an image's tokens see each
other, what was decoded stays until the next prompt, and what is closed refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.base import Embeddings, EncoderSpec, Float, Segment, Tokens
from edgekit.runtime.owned_parts import OwnedDecoder, OwnedEncoder

_FEATURES = 64
_FADING = 0.02  # how much less a position counts for each one that lies between


class StubDecoder(OwnedDecoder):
    """One layer of attention with random weights: `edgekit.runtime.base.Decoder`."""

    def __init__(self, *, hidden: int = 32, vocabulary: int = 64, context: int = 256, seed: int = 0) -> None:
        self.hidden, self.vocabulary, self.context = hidden, vocabulary, context
        self._table: Float = np.random.default_rng(seed).normal(0, 1, (vocabulary, hidden)).astype(np.float32)
        self._clear()

    def _clear(self) -> None:
        self._items = np.zeros((0, self.hidden), np.float32)
        self._ends = np.zeros(0, np.int64)  # of each position: how far it sees

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        for segment in segments:
            self._append(segment)
        return map(self._logits, wanted)

    def _step(self, ids: Sequence[int]) -> Float:
        self._append(Tokens(tuple(ids)))
        return self._logits(self.position - 1)

    def _append(self, segment: Segment) -> None:
        start, count = self.position, len(segment)
        items = segment.array if isinstance(segment, Embeddings) else self._table[[*segment.ids]]
        whole = isinstance(segment, Embeddings) and segment.bidirectional
        ends = np.full(count, start + count) if whole else np.arange(start, start + count) + 1
        self._items, self._ends = np.concatenate([self._items, items]), np.concatenate([self._ends, ends])
        self.position += count

    def _logits(self, position: int) -> Float:
        seen, item = self._items[: self._ends[position]], self._items[position]
        scores = seen @ item / self.hidden - _FADING * np.abs(np.arange(len(seen)) - position)
        weights = np.exp(scores - scores.max())
        return np.asarray(self._table @ (item + weights @ seen / weights.sum()), np.float32)

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
