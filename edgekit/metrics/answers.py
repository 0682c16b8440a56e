"""Scores of answers that are neither right nor wrong: words, boxes, and conditions of which few are there."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ARTICLES = frozenset(("a", "an", "the"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Box = Sequence[float]  # (top, left, bottom, right)


@dataclass(frozen=True)
class Overlap:
    """How much two texts have in common, by their words."""

    f1: float
    precision: float
    recall: float


def words(text: str) -> list[str]:
    """Lower-cased, without punctuation and articles, as SQuAD counts them (Rajpurkar et al., EMNLP 2016)."""
    return [word for word in text.lower().translate(_NO_PUNCTUATION).split() if word not in _ARTICLES]


def word_overlap(answer: str, truth: str) -> Overlap:
    """An answer's words against the truth's, each as often as both have it; all or nothing where one has none."""
    said, wanted = words(answer), words(truth)
    if not said or not wanted:
        same = float(said == wanted)
        return Overlap(same, same, same)
    common = sum((Counter(said) & Counter(wanted)).values())
    precision, recall = common / len(said), common / len(wanted)
    return Overlap(2 * common / (len(said) + len(wanted)), precision, recall)


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1; 0 where neither has an area."""
    top, left = max(one[0], other[0]), max(one[1], other[1])
    bottom, right = min(one[2], other[2]), min(one[3], other[3])
    common = max(0.0, bottom - top) * max(0.0, right - left)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - common
    return float(common / union) if union > 0 else 0.0


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Detections:
    """What was there and what was said to be, an entry an item.

    Attributes:
        kinds: number of what was looked for, [n] from 0 on.
        truth, predicted: whether it is there and was said to be, [n]; who said nothing said that it is not.
    """

    kinds: NDArray[np.intp]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]

    def f1(self, weights: ArrayLike | None = None) -> NDArray[np.float64]:
        """F1 of each kind; NaN of one that neither is there nor was said to be.

        Args:
            weights: how often each item counts, [n]; once for None.
        """
        counted = np.ones(len(self.kinds)) if weights is None else np.asarray(weights, np.float64)
        count = int(self.kinds.max()) + 1
        found = np.bincount(self.kinds, counted * (self.truth & self.predicted), count)
        wrong = np.bincount(self.kinds, counted * (self.truth ^ self.predicted), count)
        with np.errstate(invalid="ignore"):  # 0 of 0
            return np.asarray(2 * found / (2 * found + wrong))

    def macro_f1(self, weights: ArrayLike | None = None) -> float:
        """The mean of the kinds' F1, without those that have none; NaN where none has one."""
        each = self.f1(weights)
        each = each[np.isfinite(each)]
        return float(each.mean()) if len(each) else float("nan")


def macro_f1_difference(ours: Detections, theirs: Detections) -> Callable[[NDArray[np.float64]], float]:
    """Macro F1 minus another's on the same items, as a function of how often each item counts."""
    return lambda weights: ours.macro_f1(weights) - theirs.macro_f1(weights)
