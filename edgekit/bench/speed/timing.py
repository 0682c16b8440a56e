"""What a user waits for, measured in one process on one open model.

An answering model is asked about images, then given a prompt of random tokens and single steps behind it, which every
other program can be given, too. The first question after opening enters its own figure only, and so does the first of
everything else that is measured several times; where there is nothing but the first, the figure is left out.

An engine keeps what it has computed, so what is already known is varied on purpose:

    first_token_cold_ms            the very first question after opening
    first_token_ms                 a question about a new image; of a model that sees none, one that begins anew
    first_token_image_known_ms     the same image, behind other words: its embeddings are there, their positions are not
    first_token_prefix_known_ms    another question about the image just seen: all positions up to it are there
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.answers import answer
from edgekit.bench.items import Item, question
from edgekit.inputs.message import Image, Message
from edgekit.machine import energy
from edgekit.runtime.base import Model, Tokens
from edgekit.runtime.chat_model import ChatModel

PROMPTS = 3  # of random tokens, the first a warm-up
_FIRST_ID = 10  # below it lie control tokens


@dataclass(frozen=True)
class Amounts:
    """How much is measured: a prompt of so many random tokens, and so many single steps behind it."""

    prompt_tokens: int
    steps: int


@dataclass
class Timed:
    """What one process measured.

    Attributes:
        figures: name -> median within this process.
        samples: name -> every single one: `step_ms`, `prompt_s`.
        amounts: how much was measured; less than was asked for where the context is short.
    """

    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    amounts: Amounts = Amounts(0, 0)


def random_ids(count: int, vocabulary: int) -> list[int]:
    """The prompt of random tokens, the same for every program."""
    return [int(one) for one in np.random.default_rng(0).integers(min(_FIRST_ID, vocabulary - 1), vocabulary, count)]


def answering(model: ChatModel, text: str, images: Sequence[NDArray[np.uint8]], amounts: Amounts) -> Timed:
    """Time a model that answers.

    Args:
        text: the question about each image, or the question where it sees none.
        images: different ones.
    """
    timed = Timed()
    asked = [question(text, image) if model.sees else question(f"Case {i}. {text}") for i, image in enumerate(images)]
    waits = [1000 * answer(model, Item("", messages), 1).first_token_s for messages in asked]
    timed.figures["first_token_cold_ms"] = waits[0]
    if waits[1:]:
        timed.figures["first_token_ms"] = median(waits[1:])
    _known(model, text, images[-1], timed)
    if model.sees:
        _images(lambda image: model.encode_images([image]), _mirrored(images), timed)
        if alone := timed.figures.get("image_encode_ms"):
            timed.figures["images_per_s"] = 1000 / alone  # it takes one at a time
    _tokens(model, amounts, timed)
    return timed


def embedding(model: Model, text: str, images: Sequence[NDArray[np.uint8]]) -> Timed:
    """Time a model that embeds images, and texts where it does."""
    timed = Timed()
    fresh = _mirrored(images)
    _images(lambda image: model.embed_image([image]), fresh, timed)
    seconds = _seconds(lambda: model.embed_image([np.ascontiguousarray(image[::-1]) for image in fresh]))
    timed.figures["images_per_s"] = len(fresh) / seconds
    if "embed_text" in model.abilities:
        timed.figures |= _median_ms("text_encode_ms", lambda one: model.embed_text([one]), [text] * len(fresh))
    return timed


def _known(model: ChatModel, text: str, image: NDArray[np.uint8], timed: Timed) -> None:
    """What it takes where something was computed before."""
    if model.sees:
        other = Item("", (Message("user", "A case.", Image(image), text),))
        timed.figures["first_token_image_known_ms"] = 1000 * answer(model, other, 1).first_token_s
    seen = image if model.sees else None
    answer(model, Item("", question(text, seen)), 1)
    again = Item("", question(f"{text} Answer in one word.", seen))
    timed.figures["first_token_prefix_known_ms"] = 1000 * answer(model, again, 1).first_token_s


def _images(call: Callable[[Any], Any], images: Sequence[Any], timed: Timed) -> None:
    with energy.spent() as spent:
        timed.figures |= _median_ms("image_encode_ms", call, images)
    if spent.joules is not None:
        timed.figures["image_j"] = spent.joules / len(images)


def _tokens(model: ChatModel, amounts: Amounts, timed: Timed) -> None:
    decoder = model.decoder
    steps = max(2, min(amounts.steps, decoder.context // 2))
    timed.amounts = Amounts(min(amounts.prompt_tokens, decoder.context - steps - 1), steps)
    prompt = [Tokens(tuple(random_ids(timed.amounts.prompt_tokens, decoder.vocabulary)))]
    seconds = []
    for _ in range(PROMPTS):
        started = time.perf_counter()
        (logits,) = decoder.prefill(prompt)
        seconds.append(time.perf_counter() - started)
    milliseconds = []
    with energy.spent() as spent:
        for _ in range(steps):
            token = int(logits.argmax())
            started = time.perf_counter()
            logits = decoder.step([token])
            milliseconds.append(1000 * (time.perf_counter() - started))
    timed.figures |= token_figures(timed.amounts.prompt_tokens, seconds, milliseconds)
    timed.samples = {"prompt_s": seconds[1:], "step_ms": milliseconds[1:]}
    if spent.joules is not None:
        timed.figures["decode_j_per_token"] = spent.joules / steps


def token_figures(prompt_tokens: int, prompt_s: Sequence[float], step_ms: Sequence[float]) -> dict[str, float]:
    """Speeds from all seconds of prompts and milliseconds of steps, the first of each a warm-up."""
    return {
        "prefill_tokens_per_s": prompt_tokens / median(prompt_s[1:]),
        "decode_tokens_per_s": 1000 * (len(step_ms) - 1) / sum(step_ms[1:]),
    }


def _mirrored(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Copies that are new to any memory of images, and cost the same."""
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]


def _median_ms(figure: str, call: Callable[[Any], Any], items: Sequence[Any]) -> dict[str, float]:
    """The figure of a call's median time over these items but the first, a warm-up; none where there are no others."""
    times = [1000 * _seconds(lambda item=item: call(item)) for item in items]  # type: ignore[misc]
    return {figure: median(times[1:])} if times[1:] else {}


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
