"""Latency: one process opens one model once and times single requests in it; what a user at the device waits for.

    load_s                opening the model; the import of its libraries counts, since a user waits for it too
    first_token_ms        from the call to the first token of an image question, image encoding included
    first_token_cold_ms   the same for the very first question after opening
    decode_tokens_per_s   single steps after a prompt with an image; bounded by memory bandwidth over bytes of weights
    image_encode_ms       one image, resizing included, to embeddings
    text_encode_ms        one text to its embedding, where the model embeds texts
    peak_memory_bytes     the process's largest resident set: Python, libraries, and files mapped into memory included

A warm-up is apart: the first question enters its own figure only. Every image is a new one, because a model may
remember an image it has seen. A figure is the median within a process; rounds are combined in `records`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from edgekit.bench.datasets import Dataset
from edgekit.bench.tasks import LatencyTask
from edgekit.inputs.message import Image, Message
from edgekit.machine.cpu import peak_memory_bytes
from edgekit.runtime.base import Generation, Model
from edgekit.runtime.compose import ChatModel


def measure(model: Model, task: LatencyTask, dataset: Dataset, load_s: float) -> dict[str, float]:
    """All figures that this model has."""
    # Mirrored copies are new to any cache and cost the same.
    fresh = [np.ascontiguousarray(image[:, ::-1]) for image in dataset.images]
    figures = {"load_s": load_s}
    if isinstance(model, ChatModel):
        figures |= _answering(model, task, dataset.images)
        if model.sees:
            figures["image_encode_ms"] = _median_ms(lambda image: model.encode_images([image]), fresh)
    else:
        figures["image_encode_ms"] = _median_ms(lambda image: model.embed_image([image]), fresh)
        figures["text_encode_ms"] = _median_ms(lambda text: model.embed_text([text]), [task.prompt] * len(fresh))
    return {**figures, "peak_memory_bytes": float(peak_memory_bytes())}


def _answering(model: ChatModel, task: LatencyTask, images: Sequence[Any]) -> dict[str, float]:
    waits = []
    questions = [Message("user", *([Image(image)] if model.sees else []), task.prompt) for image in images]
    for question in questions:
        *_, generation = model.generate([question], max_tokens=1)
        assert isinstance(generation, Generation), "the last item of a stream is the finished answer"
        waits.append(1000 * generation.first_token_s)
    (logits,) = model.decoder.prefill(model.segments(questions[:1]))
    steps = []
    for _ in range(task.decode_tokens):
        token = int(logits.argmax())
        started = time.perf_counter()
        logits = model.decoder.step([token])
        steps.append(time.perf_counter() - started)
    return {
        "first_token_cold_ms": waits[0],
        "first_token_ms": median(waits[1:] or waits),
        "decode_tokens_per_s": (len(steps) - 1) / sum(steps[1:]),  # the first step may set up its shape
    }


def _median_ms(call: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Median time of a call over these items, the first one left out as warm-up where there are more."""
    times = []
    for item in items:
        started = time.perf_counter()
        call(item)
        times.append(1000 * (time.perf_counter() - started))
    return median(times[1:] or times)
