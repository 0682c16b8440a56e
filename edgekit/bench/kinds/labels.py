"""Prompt-based classification: which of a data set's labels fits an image best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from edgekit.artifacts.validation import Listed
from edgekit.bench import predictions
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import Figures, RunContext, Task
from edgekit.bench.predictions import Predictions
from edgekit.bench.prompts import LabelPrompt
from edgekit.bench.records import Measurement
from edgekit.inputs.labels import class_prompts
from edgekit.runtime.base import Model

_BATCH = 16  # images classified at once, which bounds memory at full size


class LabelsTask(Task):
    """`prompts` are averaged per label; {name}, {phrase} and {modality} in them are the label's."""

    kind: Literal["labels"]
    prompts: Listed[LabelPrompt] = Field(min_length=1, max_length=1000)
    parser: Literal["highest-score"] = "highest-score"

    ability = "embed_image"
    headline = "accuracy"
    figures = ("balanced_accuracy",)

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image, with the labels' names as answers."""
        names = tuple(label.name for label in dataset.labels)
        return tuple(
            Item(sample.group, image=image, answers=names, truth=sample.truth, topic=sample.topic)
            for sample, image in zip(dataset.samples, dataset.images, strict=True)
        )

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """The label with the highest score for each image; none where a score is no number."""
        items = self.items(dataset)
        prompts = [class_prompts(label, self.prompts) for label in dataset.labels]
        predicted: list[str | None] = []
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            scores = model.classify([item.image for item in batch], prompts)
            predicted += [predictions.likeliest(item.answers, row) for item, row in zip(batch, scores, strict=True)]
        truth, groups = tuple(str(item.truth) for item in items), group_numbers([item.group for item in items])
        topics = tuple(item.topic for item in items)
        return asdict(Predictions(truth, tuple(predicted), tuple(groups), topics=topics))

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Accuracy."""
        given, paired = Predictions(**results[0]), Predictions(**full_precision) if full_precision else None
        asked = {
            "parser": f"{self.parser}: the label with the highest score",
            "prompt": list(self.prompts),
            "nonfinite": given.predicted.count(None),
        }
        return predictions.figures(given, paired, asked, self.margin)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and what chance gives."""
        return predictions.explanation(first, rows)
