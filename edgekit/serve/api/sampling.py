"""How an answer is decoded, as requests of all routes that generate say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from edgekit.serve.api.known_names import INSTEAD
from edgekit.serve.api.reading import ParameterError, Request

Biases = dict[str, float]

# Its names, for a route that does not decode by them, with the values by which they change nothing.
SAMPLED: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "max_tokens": (),
    "min_p": (0,),
    "n": (1,),
    "presence_penalty": (0,),
    "repeat_penalty": (1,),
    "repetition_penalty": (1,),
    "seed": (),
    "stop": ([],),
    "top_k": (-1, 0),
}


class Sampling(Request):
    """What chat and completions have in common, by OpenAI's names; top_k, min_p and repetition_penalty by vLLM's.

    A client that names no temperature gets the greedy answer, the same every time.
    """

    instead: ClassVar[Mapping[str, str]] = INSTEAD

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None  # llama.cpp's name for it
    logit_bias: Biases | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=64)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def options(self, most: int, context: int) -> dict[str, Any]:
        """As a `Job` has them, without those that are defaults.

        Args:
            most: the budget of who names none.
            context: the budget of who wants no limit.
        """
        options: dict[str, Any] = {
            name: value
            for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "logit_bias", "seed")
            if (value := getattr(self, name)) is not None
        }
        if self.top_k is not None:
            options["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's word for all
        penalty = one_of(self, "repetition_penalty", "repeat_penalty")
        options |= {} if penalty is None else {"repetition_penalty": penalty}
        options |= {} if self.n is None else {"n": self.n}
        if self.stop is not None:
            options["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return {**options, "max_tokens": budget(self.max_tokens, most, context)}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.get("include_usage") is True)


def budget(given: int | None, most: int, context: int) -> int:
    """Tokens that an answer may have: -1 is no limit, as llama.cpp's server and LM Studio have it."""
    return most if given is None else context if given == -1 else given


def one_of(request: Request, *names: str) -> Any:
    """The value of a parameter that has several names.

    Raises:
        ParameterError: they differ.
    """
    given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    if len(set(given.values())) > 1:
        raise ParameterError(names[-1], f"differs from {names[0]}", allowed="one of them")
    return next(iter(given.values()), None)
