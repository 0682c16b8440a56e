"""A question about each sample, answered freely: its truth must be named."""

from __future__ import annotations

from typing import Literal

from edgekit.bench.answers import AnswerTask
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, question


class FindingTask(AnswerTask):
    """`prompt` may contain {question}: the sample's own, where the data set brings one."""

    kind: Literal["finding"]

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample; the labels are allowed, or what the sample itself allows."""
        return tuple(
            Item(
                group=sample.group,
                messages=question(self.prompt.replace("{question}", sample.question), sample.image),
                image=sample.image,
                answers=sample.options or tuple(label.name for label in dataset.labels),
                truth=sample.truth,
                topic=sample.topic,
            )
            for sample in dataset.samples
        )
