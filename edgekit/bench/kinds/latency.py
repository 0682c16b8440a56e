"""Latency: one process opens one model once and times single requests in it; what a user at the device waits for.

    load_cold_s           opening the model, its files on the disk alone; once a row, in a process of its own
    load_s                opening it as the next user does; the import of its libraries counts, for he waits for it, too
    first_token_...       from the call to the first token, image encoding included; which there are: `speed.timing`
    prefill_tokens_per_s  a prompt of random tokens; bounded by the rate of the machine's matrix products
    decode_tokens_per_s   single steps behind it; bounded by memory's bandwidth over the bytes of weights
    step_p50_ms, ...      single steps, over all rounds; a percentile that so few cannot show is left out
    image_encode_ms       one image, resizing included, to embeddings; images_per_s several, together where it can
    text_encode_ms        one text to its embedding, where the model embeds texts
    peak_memory_bytes     the process's largest resident set: own_memory_bytes, and mapped_memory_bytes of files
    file_bytes            what the row's files take on the disk
    ..._j, ..._j_per_...  energy, where the machine says what it takes
    ..._share             of the machine's limit, which is measured in the same run (`edgekit.machine.roofline`)

A figure is the median within a process; rounds are combined in `speed.summary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from edgekit.artifacts.validation import Text
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, question
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import centre
from edgekit.bench.speed import summary
from edgekit.bench.speed.process import measured
from edgekit.bench.speed.timing import Amounts, Timed, answering, embedding
from edgekit.runtime.base import Model
from edgekit.runtime.chat_model import ChatModel


def _column(figure: str, head: str, unit: float = 1, digits: int = 0) -> FigureColumn:
    return FigureColumn(figure, head, lambda estimate: centre(estimate, unit, digits), unit, digits)


class LatencyTask(Task):
    """`limit` different images are asked about; a prompt of `prompt_tokens` is read, and `decode_tokens` steps made."""

    kind: Literal["latency"]
    prompt: Text
    prompt_tokens: int = Field(default=512, gt=0, lt=1 << 24)
    decode_tokens: int = Field(gt=1, lt=1 << 24)

    in_rounds = True
    figures = (
        "images_per_s", "step_p50_ms", "step_p90_ms", "step_p99_ms", "mapped_memory_bytes", "file_bytes", "image_j",
        "decode_j_per_token",
    )  # fmt: skip
    columns = (
        _column("load_cold_s", "cold load s", 1, 2),
        _column("load_s", "load s", 1, 2),
        _column("first_token_ms", "first token ms"),
        _column("first_token_image_known_ms", "image known ms"),
        _column("first_token_prefix_known_ms", "prefix known ms"),
        _column("prefill_tokens_per_s", "prefill tok/s"),
        _column("prefill_share", "of matrix rate %", 0.01, 1),
        _column("decode_tokens_per_s", "decode tok/s", 1, 1),
        _column("decode_share", "of bandwidth %", 0.01, 1),
        _column("image_encode_ms", "image ms", 1, 1),
        _column("image_share", "image, of matrix rate %", 0.01, 1),
        _column("images_per_s", "images/s, batched if it can", 1, 1),
        _column("text_encode_ms", "text ms", 1, 1),
        _column("peak_memory_bytes", "peak MB", 1e6),
        _column("own_memory_bytes", "own MB", 1e6),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image with the question about it."""
        return tuple(
            Item(sample.group, question(self.prompt, image), image=image)
            for sample, image in zip(dataset.samples, dataset.images, strict=True)
        )

    @property
    def amounts(self) -> Amounts:
        """Tokens of the prompt, and steps."""
        return Amounts(self.prompt_tokens, self.decode_tokens)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """All figures that this model has."""

        def timed() -> Timed:
            if isinstance(model, ChatModel):
                return answering(model, self.prompt, dataset.images, self.amounts)
            return embedding(model, self.prompt, dataset.images)

        found = measured(timed, model.runtimes, context.cell)
        found["figures"]["load_s"] = context.load_s
        if context.load_cold_s is not None:
            found["figures"]["load_cold_s"] = context.load_cold_s
        return found

    def summarize(self, results: Sequence[Mapping[str, Any]], full_precision: Any | None = None) -> Figures:
        """Median, least and largest over the rounds."""
        return Figures(summary.figures(results), summary.details(results))

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """Over how many rounds the medians are, what the machine allows, and which rows are doubtful."""
        rounds = first.details["rounds"]
        over = f"{rounds} rounds, one process a row and round, rounds interleaved" if rounds != 1 else "1 round"
        how = f"single requests about {first.counted} different samples, medians over {over}"
        return f"{first.task}: {first.title}; {how}.{summary.limits_said(rows)}{summary.disturbance_said(rows)}"
