"""Latency: one process opens one model once and times single requests in it; what a user at the device waits for.

    load_s                opening the model; the import of its libraries counts, since a user waits for it too
    first_token_ms        from the call to the first token of an image question, image encoding included
    first_token_cold_ms   the same for the very first question after opening
    decode_tokens_per_s   single steps after a prompt with an image; bounded by memory bandwidth over bytes of weights
    image_encode_ms       one image, resizing included, to embeddings
    text_encode_ms        one text to its embedding, where the model embeds texts
    peak_memory_bytes     the process's largest resident set: Python, libraries, and files mapped into memory included

A warm-up is apart: the first question enters its own figure only. Every image is a new one, because a model may
remember an image it has seen. A figure is the median within a process; rounds are combined in `summarize`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgekit.artifacts.validation import Text
from edgekit.bench.answers import answer
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, question
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import centre
from edgekit.machine.memory import peak_memory_bytes
from edgekit.metrics import Estimate
from edgekit.runtime.base import Model
from edgekit.runtime.chat_model import ChatModel


def _column(figure: str, head: str, unit: float = 1, digits: int = 0) -> FigureColumn:
    return FigureColumn(figure, head, lambda estimate: centre(estimate, unit, digits))


class LatencyTask(Task):
    """`limit` different images are asked about, then `decode_tokens` single steps are made."""

    kind: Literal["latency"]
    prompt: Text
    decode_tokens: int = Field(gt=1, lt=1 << 24)

    in_rounds = True
    columns = (
        _column("load_s", "load s", 1, 2),
        _column("first_token_ms", "first token ms"),
        _column("decode_tokens_per_s", "decode tok/s"),
        _column("image_encode_ms", "image ms", 1, 1),
        _column("text_encode_ms", "text ms", 1, 1),
        _column("peak_memory_bytes", "peak MB", 1e6),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image with the question about it."""
        return tuple(
            Item(sample.group, question(self.prompt, image), image=image)
            for sample, image in zip(dataset.samples, dataset.images, strict=True)
        )

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """All figures that this model has."""
        items = self.items(dataset)
        # Mirrored copies are new to any cache and cost the same.
        fresh = [np.ascontiguousarray(item.image[:, ::-1]) for item in items if item.image is not None]
        figures = {"load_s": context.load_s}
        if isinstance(model, ChatModel):
            figures |= self._answering(model, items)
            if model.sees:
                figures["image_encode_ms"] = _median_ms(lambda image: model.encode_images([image]), fresh)
        else:
            figures["image_encode_ms"] = _median_ms(lambda image: model.embed_image([image]), fresh)
            figures["text_encode_ms"] = _median_ms(lambda text: model.embed_text([text]), [self.prompt] * len(fresh))
        return {**figures, "peak_memory_bytes": float(peak_memory_bytes())}

    def summarize(self, results: Sequence[Mapping[str, float]], full_precision: Any | None = None) -> Figures:
        """Median, least and largest over the rounds."""
        figures = {}
        for name in results[0]:
            values = [result[name] for result in results]
            figures[name] = Estimate(median(values), min(values), max(values), len(values))
        return Figures(figures, {"rounds": len(results)})

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """Over how many rounds the medians are."""
        how = f"medians over {first.details['rounds']} rounds, one process a row and round, rounds interleaved"
        return f"{first.task}: {first.title}; {how}."

    def _answering(self, model: ChatModel, items: Sequence[Item]) -> dict[str, float]:
        asked = [item if model.sees else Item(item.group, question(self.prompt)) for item in items]
        waits = [1000 * answer(model, item, 1).first_token_s for item in asked]
        (logits,) = model.decoder.prefill(model.segments(list(asked[0].messages)))
        steps = []
        for _ in range(self.decode_tokens):
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
