"""Predictions: what a model says of each item, and what follows when one answer of several is right.

Task kinds that end in an accuracy share this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.bench.kinds.base import Figures
from edgekit.bench.records import Measurement


@dataclass(frozen=True)
class Predictions:
    """One prediction an item, in the items' order.

    Attributes:
        predicted: None where an answer could not be parsed, which counts as wrong.
        groups: items with equal numbers are not independent.
        answers: the free answers as they came, empty for scores.
        truncated: answers that the output budget cut off.
    """

    truth: tuple[str, ...]
    predicted: tuple[str | None, ...]
    groups: tuple[int, ...]
    answers: tuple[str, ...] = ()
    truncated: int = 0

    @property
    def right(self) -> NDArray[np.float64]:
        """1 for a right prediction, 0 for a wrong one, [n]."""
        return np.asarray([t == p for t, p in zip(self.truth, self.predicted, strict=True)], np.float64)


def figures(given: Predictions, full_precision: Predictions | None, asked: Mapping[str, Any]) -> Figures:
    """Accuracy and balanced accuracy, the classes' shares, and what always giving the most frequent answer would reach.

    Args:
        asked: what the details say of the way it was asked.
    """
    truth, right, groups = np.asarray(given.truth, object), given.right, np.asarray(given.groups)
    classes = {label: truth == label for label in sorted(set(given.truth))}
    largest = max(classes, key=lambda label: int(classes[label].sum()))
    share = int(classes[largest].sum()) / len(truth)
    details = {
        **asked,
        "majority_baseline": {"label": largest, "accuracy": share, "balanced": 1 / len(classes)},
        "per_class": {label: asdict(metrics.share_interval(right[c], groups[c])) for label, c in classes.items()},
        "unparsed_share": sum(answer is None for answer in given.predicted) / len(truth),
    }
    return Figures(
        metrics={
            "accuracy": metrics.share_interval(right, groups),
            "balanced_accuracy": metrics.balanced_accuracy(given.truth, given.predicted, groups),
        },
        details=details,
        paired=metrics.compare(right, full_precision.right, groups) if full_precision else None,
    )


def explanation(first: Measurement, rows: Sequence[Measurement]) -> str:
    """How it was asked, how many items, what chance gives."""
    details = first.details
    prompt, base = details["prompt"], details["majority_baseline"]
    asked = f"prompt {prompt!r}" if isinstance(prompt, str) else f"{len(prompt)} prompts a label, averaged"
    budget = ""
    if "max_tokens" in details:
        cut = max(row.details.get("truncated_share", 0) for row in rows)
        budget = f"; at most {details['max_tokens']} tokens, at most {100 * cut:.1f} % of a row's answers cut off"
    chance = f"always {base['label']!r} gives {100 * base['accuracy']:.1f} %, balanced {100 * base['balanced']:.1f} %"
    return f"{first.task}: {first.title}; n = {first.counted}; {asked}; parser {details['parser']}{budget}; {chance}."
