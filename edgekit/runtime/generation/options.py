"""What a user may ask of an answer, checked where it is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from edgekit.errors import InputError
from edgekit.runtime.grammar.constraints import Constraint

MOST_STOPS, LONGEST_STOP = 16, 1000
MOST_ANSWERS, MOST_LOGPROBS, MOST_BIASES = 64, 20, 1024
_LEAST_PENALTY = 0.01  # by far less, logits become infinite


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is decoded. By default greedily: the same question has the same answer.

    Attributes:
        max_tokens: the budget of an answer.
        thinking: whether the model is told that it may think first; MedGemma 1.5 was trained to.
        thinking_tokens: the budget of its thoughts alone, after which they are ended for it; None for one budget
            together with the answer's.
        temperature: 0 for greedy; else logits are divided by it.
        top_k: only so many of the likeliest tokens are drawn from; 0 for all.
        top_p: only the likeliest tokens that together are as likely as this.
        min_p: only tokens at least so likely, as a share of the likeliest one's probability.
        presence_penalty: subtracted from the logit of each token that the answer has, -2 to 2.
        frequency_penalty: subtracted as often as the answer has it, -2 to 2.
        repetition_penalty: logits of tokens that the prompt or the answer has are divided by it where they are
            positive, and multiplied where they are negative; 1 for none (Keskar et al. 2019, CTRL).
        logit_bias: token id -> what is added to its logit, -100 to 100.
        seed: of what is drawn; the same gives the same answer on the same machine; None for one by chance, which the
            answer names.
        constraint: what the answer can be at all: `JsonSchema`, `Choice`, `Regex` or `Lark`. One that ends by itself
            satisfies it; one that its budget cuts off is a beginning of one that would.
        stop: the answer ends before whichever of these texts it has said first.
        n: so many answers to one question.
        top_logprobs: so many of the likeliest tokens are given beside each token of the answer, and its own log
            probability by the model, before any of these options; 0 for its own alone, None for none at all.
        deadline_s: seconds after which the answer ends as it is, from the call on.
        cancelled: ends the answer once it is set, from whatever thread.
        lookup: whether drafts are copied from prompt and answer where that is faster. It changes no token, but where
            two are equally likely to within rounding.

    Raises:
        InputError: a value is none that it can have.

    Examples:
        >>> GenerationOptions(temperature=0.7, top_p=0.9, seed=1).max_tokens
        256
        >>> GenerationOptions(top_p=1.5)
        Traceback (most recent call last):
            ...
        edgekit.errors.InputError: top_p of 1.5
        allowed: above 0, up to 1
    """

    max_tokens: int = 256
    thinking: bool = False
    thinking_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    top_logprobs: int | None = None
    deadline_s: float | None = None
    cancelled: Event | None = None
    lookup: bool = True

    def __post_init__(self) -> None:
        if not _whole(self.max_tokens) or self.max_tokens < 1:
            said = f"an output budget of {self.max_tokens!r:.40} tokens"
            raise InputError(said, allowed="1 or more", param="max_tokens")
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (value is None and name in _OPTIONAL) and not (kind(value) and low <= value <= high):
                raise _refused(name, value, f"{'a whole number, ' if kind is _whole else ''}{low:g} to {high:g}")
        if not (_finite(self.top_p) and 0 < self.top_p <= 1):
            raise _refused("top_p", self.top_p, "above 0, up to 1")
        if not (_finite(self.repetition_penalty) and _LEAST_PENALTY <= self.repetition_penalty <= 10):
            allowed = f"{_LEAST_PENALTY} to 10; 1 for none"
            raise _refused("repetition_penalty", self.repetition_penalty, allowed)
        if self.constraint is not None and not isinstance(self.constraint, Constraint):
            raise _refused("constraint", self.constraint, "JsonSchema, Choice, Regex or Lark")
        self._check_stops()
        self._check_biases()
        if self.n > 1 and not self.temperature:
            said = f"{self.n} greedy answers, which are all the same"
            raise InputError(said, allowed="n of 1, or a temperature", param="n")

    def _check_stops(self) -> None:
        if isinstance(self.stop, str):
            raise _refused("stop", self.stop, "a tuple of texts")
        object.__setattr__(self, "stop", tuple(self.stop))
        wrong = [text for text in self.stop if not isinstance(text, str) or not 0 < len(text) <= LONGEST_STOP]
        if wrong or len(self.stop) > MOST_STOPS:
            allowed = f"up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
            raise _refused("stop", wrong[0] if wrong else self.stop, allowed)

    def _check_biases(self) -> None:
        if len(self.logit_bias) > MOST_BIASES:
            said = f"logit_bias of {len(self.logit_bias)} tokens"
            raise InputError(said, allowed=f"up to {MOST_BIASES}", param="logit_bias")
        for token, bias in self.logit_bias.items():
            if not (_whole(token) and token >= 0 and _finite(bias) and -100 <= bias <= 100):
                raise _refused("logit_bias", {token: bias}, "token ids, each with -100 to 100")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_RANGES: Mapping[str, tuple[Callable[[Any], bool], float, float]] = {
    "thinking_tokens": (_whole, 2, 1 << 31),
    "top_k": (_whole, 0, 1 << 31),
    "seed": (_whole, 0, (1 << 63) - 1),
    "n": (_whole, 1, MOST_ANSWERS),
    "top_logprobs": (_whole, 0, MOST_LOGPROBS),
    "temperature": (_finite, 0, 100),
    "min_p": (_finite, 0, 1),
    "presence_penalty": (_finite, -2, 2),
    "frequency_penalty": (_finite, -2, 2),
    "deadline_s": (_finite, 0, 1e9),
}
_OPTIONAL = ("thinking_tokens", "seed", "top_logprobs", "deadline_s")


def _refused(name: str, value: Any, allowed: str) -> InputError:
    return InputError(f"{name} of {value!r:.60}", allowed=allowed, param=name)
