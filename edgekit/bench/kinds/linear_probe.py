"""A linear probe: how much a logistic regression reads off an encoder's image embeddings.

Each row's own embeddings are divided into `folds`; a regression is fitted on all but one and judged on the one, so
that every image is judged by one that never saw it, nor another image of its group. What is compared is what a user
would have who trains a classifier on the artifact that she deploys. (Google's figures are of separate training sets.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit import metrics
from edgekit.bench import areas
from edgekit.bench.datasets import Dataset
from edgekit.bench.embedding import Finding, findings, has_findings, image_vectors, log_odds
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.logistic import LogisticRegression
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import percent
from edgekit.errors import UsageError
from edgekit.runtime.base import Float, Model


class LinearProbeTask(Task):
    """`folds` of the samples, groups kept together; `c` is how much the data count beside the penalty."""

    kind: Literal["linear-probe"]
    folds: int = Field(default=5, ge=2, le=100)
    c: float = Field(default=1.0, gt=0, le=1e6)

    ability = "embed_image"
    about_images = True
    headline = "probe_auc"
    columns = (
        FigureColumn("probe_auc", "probe AUC", areas.area),
        FigureColumn("probe_accuracy", "probe accuracy %", percent, 0.01, 1),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image."""
        pairs = zip(dataset.samples, dataset.images, strict=True)
        return tuple(Item(sample.group, image=image, id=sample.id) for sample, image in pairs)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Scores of every finding on every image, by a regression that did not see the image.

        `right` is whether the label with the highest score is the image's; None where it may show several findings.
        """
        items, asked = self.items(dataset), findings(dataset)
        groups = group_numbers([item.group for item in items])
        areas.check_findings(asked, groups, self.name)
        vectors = image_vectors(model, [item.image for item in items if item.image is not None])
        if not np.isfinite(vectors).all():
            raise UsageError(f"{self.name}: {int((~np.isfinite(vectors)).any(axis=1).sum())} embeddings are not finite")
        if has_findings(dataset):
            columns = [self._two_classes(vectors, finding, groups) for finding in asked]
            scores, right = np.stack(columns, axis=1), None
        else:
            truth = np.array([[bool(known) for known in finding.truth] for finding in asked]).argmax(axis=0)
            judged = self._judged(vectors, truth, np.asarray(groups))
            scores, right = log_odds(judged), (judged.argmax(axis=1) == truth).tolist()
        return {**asdict(areas.scored(asked, scores, groups)), "right": right}

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """The mean area over the findings; accuracy, where an image has one label."""
        exact = areas.of(full_precision) if full_precision else None
        figure, details, paired = areas.figures(areas.of(results[0]), exact, self.margin)
        figures = {self.headline: figure}
        if (right := results[0]["right"]) is not None:
            figures["probe_accuracy"] = metrics.share_interval(right, results[0]["groups"])
        return Figures(figures, {**details, "folds": self.folds, "c": self.c, "chance": 0.5}, paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was fitted, over what the mean is."""
        details = first.details
        return (
            f"{first.task}: {first.title}; n = {first.counted}; logistic regression on image embeddings (C = "
            f"{details['c']:g}), fitted on {details['folds'] - 1} of {details['folds']} parts and judged on the other, "
            f"groups kept together; mean area over {len(details['by_topic'])} findings; chance gives 0.5."
        )

    def _two_classes(self, vectors: Float, finding: Finding, groups: Sequence[int]) -> NDArray[np.float64]:
        """Log odds of a finding, [n]; NaN for images of which nobody knows."""
        known = np.array([truth is not None for truth in finding.truth])
        truth = np.array([truth is True for truth in finding.truth]).astype(np.int64)
        scores = np.full(len(vectors), np.nan)
        if 0 < truth[known].sum() < known.sum():
            scores[known] = self._judged(vectors[known], truth[known], np.asarray(groups)[known])[:, 1]
        return scores

    def _judged(self, vectors: Float, truth: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits [n, classes] of each image; -inf for a class that the others do not have."""
        place, count = fold_of(truth, groups, self.folds, self.seed), int(truth.max()) + 1
        judged = np.full((len(vectors), count), -np.inf)
        for fold in np.unique(place):
            here = place == fold
            there, classes = np.unique(truth[~here], return_inverse=True)
            if len(there) > 1:
                fitted = LogisticRegression(vectors[~here], classes, self.c)
                judged[np.ix_(here, there)] = fitted.logits(vectors[here])
            else:
                judged[np.ix_(here, there)] = 0
        return judged


def fold_of(truth: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each item, [n]: groups stay together, and classes are spread as evenly as groups allow.

    Groups come in an order drawn from the seed, the largest first; each goes where its classes are rarest.
    """
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(truth.max()) + 1), np.int64)
    np.add.at(counts, (group, truth), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held, place = np.zeros((folds, counts.shape[1])), np.zeros(len(counts), np.int64)
    for number in order:
        crowd = held @ counts[number]
        place[number] = min(range(folds), key=lambda fold: (crowd[fold], held[fold].sum()))
        held[place[number]] += counts[number]
    return place[group]
