"""Where a structure is: the box that an answer draws around it against the data set's own.

Images are padded to squares with black, as MedGemma was trained on, and boxes are in thousandths of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit.artifacts.validation import Listed, Name
from edgekit.bench.answers import AskTask
from edgekit.bench.datasets import Dataset, Sample
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.parsers import labelled_boxes
from edgekit.bench.predictions import Scores, score_figures
from edgekit.bench.prompts import StructurePrompt
from edgekit.bench.records import Measurement
from edgekit.errors import UsageError
from edgekit.metrics.answers import box_overlap
from edgekit.runtime.base import Model

_SCALE = 1000.0  # an edge of the square


class BoxesTask(AskTask):
    """`prompt` has {structure}.

    Attributes:
        structures: those asked for; all that a sample has boxes of for none.
    """

    kind: Literal["boxes"]
    prompt: StructurePrompt
    structures: Listed[Name] = Field(default=(), max_length=1000)

    headline = "iou"

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample and structure; the truth stands in `boxes`."""
        items = []
        for sample in dataset.samples:
            if sample.image is None:
                raise UsageError(f"task {self.name}: the dataset {dataset.source.name} has no images")
            if sample.image.ndim > 3:  # rows, columns, colours
                raise UsageError(f"task {self.name}: {sample.id}: a box in a series", allowed="single pictures")
            square = to_square(sample.image)
            for structure in self._asked_of(sample):
                messages = question(self.prompt.format(structure=structure), square)
                name = f"{sample.id}: {structure}"
                items.append(Item(sample.group, messages, square, id=name, topic=structure))
        if not items:
            raise UsageError(f"task {self.name}: the dataset {dataset.source.name} has no box of these structures")
        return tuple(items)

    def boxes(self, dataset: Dataset) -> list[tuple[float, float, float, float]]:
        """Each item's right box, in thousandths of its square."""
        found = []
        for sample in dataset.samples:
            assert sample.image is not None, "asked for its items before"
            height, width = sample.image.shape[:2]
            edge = max(height, width)
            down, across = (edge - height) // 2, (edge - width) // 2
            for structure in self._asked_of(sample):
                top, left, bottom, right = sample.boxes[structure]
                moved = (top + down, left + across, bottom + down, right + across)
                found.append(tuple(_SCALE * place / edge for place in moved))
        return [(top, left, bottom, right) for top, left, bottom, right in found]

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, and how much each box has in common with the right one."""
        items = self.items(dataset)
        answers = self.ask(model, items)
        drawn = [_drawn(answer.text, item.topic) for answer, item in zip(answers, items, strict=True)]
        pairs = zip(drawn, self.boxes(dataset), strict=True)
        return {
            "answers": [answer.text for answer in answers],
            "drawn": drawn,
            "iou": [box_overlap(box, truth) if box else 0.0 for box, truth in pairs],
            "structures": [item.topic for item in items],
            "groups": group_numbers([item.group for item in items]),
            "truncated": [answer.truncated for answer in answers],
        }

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Mean intersection over union; an answer without a box has none."""
        given = results[0]
        exact = full_precision["iou"] if full_precision else None
        scores = Scores(given["iou"], given["groups"], given["structures"])
        scored = score_figures("iou", scores, exact, self.margin)
        details = {
            "parser": "the box of the last JSON list that is labelled as asked, or the only one; none: 0",
            **self.asked(given["truncated"], len(given["iou"]), sum(box is None for box in given["drawn"])),
            **scored.details,
        }
        return Figures(scored.metrics, details, scored.paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and over how many boxes the mean is."""
        return cls.said(first, rows, f"mean intersection over union of {first.metrics[cls.headline].n} boxes")

    def _asked_of(self, sample: Sample) -> list[str]:
        return [name for name in sample.boxes if not self.structures or name in self.structures]


def to_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in the middle of a black square, whose edge is its longer side."""
    height, width = image.shape[:2]
    edge = max(height, width)
    down, across = edge - height, edge - width
    around = [(down // 2, down - down // 2), (across // 2, across - across // 2)]
    return np.pad(image, [*around, *[(0, 0)] * (image.ndim - 2)])


def _drawn(answer: str, structure: str) -> tuple[float, float, float, float] | None:
    """The box of an answer that is labelled as asked, or the only one."""
    boxes = labelled_boxes(answer) or ()
    named = [one for one in boxes if one.label.strip().lower() == structure.lower()]
    chosen = named or (boxes if len(boxes) == 1 else ())
    return chosen[0].box if chosen else None
