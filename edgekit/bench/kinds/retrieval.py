"""Retrieval: does a query find what belongs to it among its first k neighbours? Images by images, by texts, and back.

The texts are the samples' own where they have one (a report, a caption: `Sample.context`), and then belong to the
samples that have that very text; otherwise they are the labels' `prompts`, one by one, which belong to the label's
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit import metrics
from edgekit.artifacts.validation import Listed
from edgekit.bench.datasets import Dataset
from edgekit.bench.embedding import contrastive, image_vectors
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.prompts import LabelPrompt
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import percent
from edgekit.errors import UsageError
from edgekit.inputs.labels import class_prompts
from edgekit.runtime.base import Model

Direction = Literal["image-to-text", "text-to-image", "image-to-image"]
DEPTHS = (1, 5, 10)


class RetrievalTask(Task):
    """Every direction of `directions`; the first one's recall among the first neighbour stands for the task."""

    kind: Literal["retrieval"]
    prompts: Listed[LabelPrompt] = Field(min_length=1, max_length=1000)
    directions: Listed[Direction] = Field(default=get_args(Direction), min_length=1, max_length=3)

    ability = "embed_image"
    about_images = True
    headline = "recall_at_1"
    columns = tuple(FigureColumn(f"recall_at_{k}", f"recall@{k} %", percent, 0.01, 1) for k in DEPTHS)
    figures = tuple(f"{direction.replace('-', '_')}_recall_at" for direction in get_args(Direction))

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image."""
        pairs = zip(dataset.samples, dataset.images, strict=True)
        return tuple(Item(s.group, image=image, truth=s.context or s.truth, id=s.id) for s, image in pairs)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """For each direction the rank of each query's first find, None where there is none, and the queries' groups."""
        items = self.items(dataset)
        texts, owners = self._texts(dataset)
        belongs = np.array([item.truth for item in items], object)
        groups = np.array(group_numbers([item.group for item in items]))
        same = belongs[:, None] == owners[None, :]  # [images, texts]
        images = image_vectors(model, [item.image for item in items if item.image is not None])
        words = contrastive(model, self.name).embed_text(texts) if self._reads else np.empty((0, images.shape[1]))
        found: dict[str, dict[str, Any]] = {}
        for direction in self.directions:
            if direction == "image-to-image":
                others = groups[:, None] != groups[None, :]
                relevant = (belongs[:, None] == belongs[None, :]) & others
                found[direction] = _found(images @ images.T, relevant, groups, others)
            elif direction == "image-to-text":
                found[direction] = _found(images @ words.T, same, groups)
            else:
                found[direction] = _found(words @ images.T, same.T, np.array(group_numbers(owners.tolist())))
        if none := [direction for direction, result in found.items() if not result["ranks"]]:
            raise UsageError(f"{self.name}: {none[0]}: no query has anything to find", remedy="a larger limit")
        return found

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Recall at each depth, of each direction."""
        figures, by_topic, paired = {}, {}, None
        for direction in self.directions:
            result = results[0][direction]
            ranks, groups = _ranks(result), result["groups"]
            for k in DEPTHS:
                name = f"recall_at_{k}" if direction == self.directions[0] else f"{_word(direction)}_recall_at_{k}"
                figures[name] = metrics.share_interval(metrics.recall_at(ranks, k), groups)
            by_topic[direction] = {"queries": len(ranks), "median_rank": float(np.median(ranks))}
        if full_precision:
            first = results[0][self.directions[0]]
            hits, exact = (metrics.recall_at(_ranks(r[self.directions[0]]), 1) for r in (results[0], full_precision))
            paired = metrics.compare(hits, exact, first["groups"], margin=self.margin)
        chance = results[0][self.directions[0]]["chance"]
        return Figures(figures, {"directions": by_topic, "first": self.directions[0], "chance": chance}, paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """Which direction the main figures are of, and how many queries there are."""
        queries = ", ".join(f"{name} {of['queries']}" for name, of in first.details["directions"].items())
        return (
            f"{first.task}: {first.title}; n = {first.counted}; recall@k is the share of queries with a fitting item "
            f"among their first k, of {first.details['first']}; queries: {queries}; an image never finds "
            "one of its own group."
        )

    @property
    def _reads(self) -> bool:
        return any("text" in direction for direction in self.directions)

    def _texts(self, dataset: Dataset) -> tuple[list[str], NDArray[np.object_]]:
        """The texts, and whose each is: the samples' of this text, or the label's images."""
        if any(sample.context for sample in dataset.samples):
            own = list(dict.fromkeys(sample.context for sample in dataset.samples if sample.context))
            return own, np.array(own, object)
        pairs = [(text, label.name) for label in dataset.labels for text in class_prompts(label, self.prompts)]
        return [text for text, _ in pairs], np.array([name for _, name in pairs], object)


def _found(
    similarity: NDArray[np.floating[Any]],
    relevant: NDArray[np.bool_],
    groups: NDArray[np.int_],
    candidates: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Of each query that has something to find: the rank of its first find, and its group; what a guess finds first."""
    asked = relevant.any(axis=1)
    ranks = metrics.first_relevant_ranks(similarity, relevant, candidates)[asked]
    among = (np.ones_like(relevant) if candidates is None else candidates)[asked].sum(axis=1)
    chance = float((relevant[asked].sum(axis=1) / among).mean()) if asked.any() else 0.0
    return {"ranks": [int(rank) for rank in ranks], "groups": groups[asked].tolist(), "chance": chance}


def _word(direction: Direction) -> str:
    return direction.replace("-", "_")


def _ranks(result: Any) -> NDArray[np.float64]:
    return np.asarray(result["ranks"], np.float64)
