"""Predictions: what a model says of each item, and what follows when one answer of several is right.

Task kinds that end in an accuracy share `figures`; those whose answers may be partly right share `score_figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit import metrics
from edgekit.bench.kinds.base import Figures
from edgekit.bench.records import Measurement


@dataclass(frozen=True)
class Predictions:
    """One prediction an item, in the items' order.

    Attributes:
        predicted: None where an answer could not be parsed or scores are not finite, which counts as wrong.
        groups: items with equal numbers are not independent.
        answers: the free answers as they came, empty for scores.
        truncated: answers that the output budget cut off.
        topics: each item's, by which figures are given too; empty where items have none.
    """

    truth: tuple[str, ...]
    predicted: tuple[str | None, ...]
    groups: tuple[int, ...]
    answers: tuple[str, ...] = ()
    truncated: int = 0
    topics: tuple[str, ...] = ()

    @property
    def right(self) -> NDArray[np.float64]:
        """1 for a right prediction, 0 for a wrong one, [n]."""
        return np.asarray([t == p for t, p in zip(self.truth, self.predicted, strict=True)], np.float64)


@dataclass(frozen=True)
class Scores:
    """One score an item, 0 to 1, in the items' order: right or wrong, or partly right as F1 and IoU are.

    Attributes:
        groups: items with equal numbers are not independent.
        topics: each item's, by which figures are given too; empty where items have none.
    """

    scores: Sequence[float] | NDArray[np.float64]
    groups: Sequence[int]
    topics: Sequence[str] = ()


def likeliest(answers: Sequence[str], scores: ArrayLike) -> str | None:
    """The answer of the highest score, the first of equal ones; None where any score is not finite: it orders none."""
    row = np.asarray(scores, np.float64)
    return answers[int(row.argmax())] if np.isfinite(row).all() else None


def figures(
    given: Predictions, full_precision: Predictions | None, asked: Mapping[str, Any], margin: float | None = None
) -> Figures:
    """Accuracy and balanced accuracy, the classes' shares, and what always giving the most frequent answer would reach.

    Args:
        asked: what the details say of the way it was asked.
        margin: how much less accuracy still counts as equal (`Task.margin`).
    """
    truth, right, groups = np.asarray(given.truth, object), given.right, np.asarray(given.groups)
    classes = {label: truth == label for label in sorted(set(given.truth))}
    largest = max(classes, key=lambda label: int(classes[label].sum()))
    share = int(classes[largest].sum()) / len(truth)
    exact = full_precision.right if full_precision else None
    scored = score_figures("accuracy", Scores(right, given.groups, given.topics), exact, margin)
    details = {
        **asked,
        "majority_baseline": {"label": largest, "accuracy": share, "balanced": 1 / len(classes)},
        "per_class": {label: asdict(metrics.share_interval(right[c], groups[c])) for label, c in classes.items()},
        "unparsed_share": sum(answer is None for answer in given.predicted) / len(truth),
        **scored.details,
    }
    balanced = metrics.balanced_accuracy(given.truth, given.predicted, groups)
    return Figures(scored.metrics | {"balanced_accuracy": balanced}, details, scored.paired)


def score_figures(
    headline: str, given: Scores, full_precision: ArrayLike | None = None, margin: float | None = None
) -> Figures:
    """The mean score, the comparison with full precision's, and both by topic (`by_topic` in the details).

    Args:
        headline: the figure's name in `metrics`, as the task's kind has it.
        full_precision: its scores of the same items, [n]; None where there is nothing to compare.
        margin: how much less still counts as equal.
    """
    groups = np.asarray(given.groups)
    details = {"by_topic": by_topic(given, full_precision)} if any(given.topics) else {}
    paired = None if full_precision is None else metrics.compare(given.scores, full_precision, groups, margin=margin)
    return Figures({headline: metrics.share_interval(given.scores, groups)}, details, paired)


def by_topic(given: Scores, full_precision: ArrayLike | None = None) -> dict[str, dict[str, Any]]:
    """Each topic's mean score as an `Estimate`'s fields, by the topics' alphabet; items without a topic are in none.

    `difference` is another, of that topic's items minus full precision's, None where there is nothing to compare.
    """
    scores, groups, topics = np.asarray(given.scores), np.asarray(given.groups), np.asarray(given.topics, object)
    exact = None if full_precision is None else np.asarray(full_precision)
    found = {}
    for topic in sorted(set(given.topics) - {""}):
        own = topics == topic
        change = None if exact is None else asdict(metrics.paired_interval(scores[own], exact[own], groups=groups[own]))
        found[topic] = {**asdict(metrics.share_interval(scores[own], groups[own])), "difference": change}
    return found


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
    accuracy = first.metrics["accuracy"]
    counted = (
        f"{first.counted} in {accuracy.groups} groups" if accuracy.groups not in (None, accuracy.n) else first.counted
    )
    return f"{first.task}: {first.title}; n = {counted}; {asked}; parser {details['parser']}{budget}; {chance}."
