"""One token from a row of logits: penalties, greedy or drawn, and what the model itself thought of it.

The order is transformers' own, which also names the warpers: bias, penalties, what a grammar allows, temperature,
top k, top p (Holtzman et al. 2020, nucleus sampling), min p (Nguyen et al. 2024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.tensors import Float
from edgekit.errors import InputError
from edgekit.metrics import log_softmax
from edgekit.runtime.generation.options import GenerationOptions

_NUCLEUS = 1024  # of the likeliest tokens, in which a nucleus mostly lies: to sort all 262,208 takes 20 ms


@dataclass(frozen=True)
class Logprob:
    """A token, and its log probability in nats by the model itself, whatever was asked of the answer."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Chosen:
    """A token of an answer.

    Attributes:
        logprob: None where none were asked for.
        top: the likeliest tokens in its place, the likeliest first.
    """

    token: int
    logprob: float | None = None
    top: tuple[Logprob, ...] = ()


class Sampler:
    """Chooses the tokens of one answer, one after the other."""

    def __init__(self, options: GenerationOptions, prompt: Sequence[int], vocabulary: int, seed: int) -> None:
        """Args:
            prompt: its token ids, which a repetition penalty counts.
            vocabulary: length of a row.

        Raises:
            InputError: a bias is of no token.
        """
        self.options = options
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt) if options.repetition_penalty != 1 else set()
        if wrong := [token for token in options.logit_bias if token >= vocabulary]:
            raise InputError(f"logit_bias of token {wrong[0]}", allowed=f"0 to {vocabulary - 1}")
        self._biased = np.asarray([*options.logit_bias], np.int64)
        self._biases = np.asarray([*options.logit_bias.values()], np.float32)

    def choose(self, row: Float, allow: Callable[[Float], None] | None = None, forced: int | None = None) -> Chosen:
        """The next token.

        Args:
            row: logits [vocabulary] float32, which stay as they are.
            allow: makes what a grammar forbids minus infinity, in place.
            forced: the one token that it can be; nothing is drawn.
        """
        token = forced if forced is not None else self._token(self._changed(row, allow))
        if self.options.top_logprobs is None:
            return Chosen(token)
        logprobs = log_softmax(row)
        most = self.options.top_logprobs
        likeliest = np.argpartition(logprobs, -most)[-most:] if most else np.zeros(0, np.int64)
        top = [Logprob(int(one), float(logprobs[one])) for one in sorted(likeliest, key=lambda i: (-logprobs[i], i))]
        return Chosen(token, float(logprobs[token]), tuple(top))

    def took(self, token: int) -> None:
        """The answer goes on with it."""
        self._counts[token] += 1
        if self.options.repetition_penalty != 1:
            self._seen.add(token)

    def _changed(self, row: Float, allow: Callable[[Float], None] | None) -> Float:
        """Logits after bias, penalties and grammar: a copy where there is anything to change."""
        options = self.options
        penalized = bool(self._counts) and bool(options.presence_penalty or options.frequency_penalty)
        if not (len(self._biased) or penalized or self._seen or allow):
            return row
        changed = row.copy()
        changed[self._biased] += self._biases
        if self._seen:
            seen = np.fromiter(self._seen, np.int64)
            logits = changed[seen]
            by = np.float32(options.repetition_penalty)
            changed[seen] = np.where(logits > 0, logits / by, logits * by)
        if penalized:
            ids, times = np.fromiter(self._counts, np.int64), np.fromiter(self._counts.values(), np.float32)
            changed[ids] -= np.float32(options.presence_penalty) + np.float32(options.frequency_penalty) * times
        if allow:
            allow(changed)
        return changed

    def _token(self, logits: Float) -> int:
        if not self.options.temperature:
            return int(logits.argmax())
        tokens, probabilities = candidates(logits, self.options)
        cumulative = np.cumsum(probabilities)
        place = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])


def candidates(logits: Float, options: GenerationOptions) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What is drawn from: token ids, the likeliest first, and their probabilities, which need not add up to one."""
    tokens = _likeliest(logits, options)
    probabilities = _weights(logits[tokens], logits[tokens[0]], options)
    if options.top_p < 1:
        before = np.cumsum(probabilities) - probabilities
        kept = before < options.top_p * _total(logits, tokens, probabilities, options)
        kept[0] = True
        tokens, probabilities = tokens[kept], probabilities[kept]
    if options.min_p:
        kept = probabilities >= options.min_p
        tokens, probabilities = tokens[kept], probabilities[kept]
    possible = probabilities > 0
    return tokens[possible], probabilities[possible]


def _likeliest(logits: Float, options: GenerationOptions) -> NDArray[np.int64]:
    """As many tokens as can matter, the likeliest first, equal ones by their ids."""
    count = len(logits)
    if options.top_k and options.top_k < count:
        return _first(logits, options.top_k)
    if options.top_p < 1 and count > _NUCLEUS:
        few = _first(logits, _NUCLEUS)
        weights = _weights(logits, logits[few[0]], options)
        if weights[few].sum() >= options.top_p * weights.sum():
            return few
    return _first(logits, count)


def _first(logits: Float, count: int) -> NDArray[np.int64]:
    picked = np.argpartition(logits, len(logits) - count)[len(logits) - count :] if count < len(logits) else None
    picked = np.arange(len(logits)) if picked is None else np.sort(picked)
    return picked[np.argsort(-logits[picked], kind="stable")]


def _total(
    logits: Float, tokens: NDArray[np.int64], probabilities: NDArray[np.float64], options: GenerationOptions
) -> float:
    """Of what remains after top k, or of all where there is none."""
    if 0 < options.top_k < len(logits) or len(tokens) == len(logits):
        return float(probabilities.sum())
    return float(_weights(logits, logits[tokens[0]], options).sum())


def _weights(logits: Float, highest: np.float32, options: GenerationOptions) -> NDArray[np.float64]:
    """Probabilities beside that of the likeliest, which is 1 at any temperature: no quotient is beyond all numbers."""
    with np.errstate(over="ignore"):  # to minus infinity, of which the exponential is the 0 that it should be
        return np.asarray(np.exp((logits.astype(np.float64) - highest) / options.temperature))
