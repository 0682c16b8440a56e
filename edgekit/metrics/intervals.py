"""Confidence intervals: how far to trust a share, a mean, or a difference.

They hold 95 % unless told otherwise. Bootstraps are seeded, so the same scores give the same interval. Items of one
group (a patient's images, neighbouring positions of a text) are not independent: where groups are given, whole groups
are resampled, and groups of one item each change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_BLOCK = 200  # resamples drawn at a time, which bounds memory to _BLOCK x n


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval and the number of items it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(successes: int, n: int, confidence: float = _CONFIDENCE) -> Estimate:
    """A share of n items. Wilson, J. Am. Stat. Assoc. 22 (1927) 209: holds near 0 and 1, where the normal one fails."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    z = _z(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and 1 the bound is exact, and rounding must not push it past the value itself.
    return Estimate(share, float(max(0.0, min(centre - half, share))), float(min(1.0, max(centre + half, share))), n)


def share_interval(hits: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """The share of items that are 1 and not 0: Wilson's interval, or the bootstrap's where groups have several items.

    Where all items are alike, resampling finds no other share, and each group counts as one item of Wilson's.
    """
    items = np.asarray(hits, np.float64).ravel()
    group = _group_numbers(len(items), groups)
    count = len(np.unique(group))
    if count == len(items):
        return wilson_interval(int(items.sum()), len(items))
    if len(np.unique(items)) == 1:
        return replace(wilson_interval(int(items[0]) * count, count), n=len(items))
    return mean_interval(items, group)


def mean_interval(values: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> Estimate:
    """The mean of n values with a percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Args:
        groups: values with equal entries are not independent of each other, as the positions of one text.
    """
    items = np.asarray(values, np.float64).ravel()
    if not len(items):
        raise ValueError("the mean of no values")
    mean = float(items.mean())
    if not np.isfinite(items).all():
        return Estimate(mean, float("nan"), float("nan"), len(items))
    group = _group_numbers(len(items), groups)
    sums, sizes = np.bincount(group, items), np.bincount(group)
    means = [sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) for drawn in _resamples(len(sums), seed)]
    return _percentiles(mean, np.concatenate(means), len(items))


def paired_interval(
    a: ArrayLike, b: ArrayLike, confidence: float = _CONFIDENCE, *, groups: ArrayLike | None = None
) -> Estimate:
    """The mean of a - b over the same items, for scores that are 0 or 1 as well as for others.

    The two scores of an item are correlated, so the interval is that of the differences. For answers that are right
    or wrong it is the score interval of Tango, Stat. Med. 17 (1998) 891, which has a width even where no answer
    changed; for other scores it is the normal one. Where groups have several items, their differences are resampled at
    95 %, and where no item changed, each group counts as one item of Tango's.
    """
    left, right = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if left.shape != right.shape or not len(left):
        raise ValueError(f"paired scores of {len(left)} and {len(right)} items")
    difference = left - right
    n, mean, z = len(difference), float(difference.mean()), _z(confidence)
    group = _group_numbers(n, groups)
    count = len(np.unique(group))
    if count < n:
        if difference.any():
            return mean_interval(difference, group)
        return Estimate(mean, _tango(0, 0, count, z, -1), _tango(0, 0, count, z, 1), n)
    if np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all():
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        return Estimate(mean, _tango(gained, lost, n, z, -1), _tango(gained, lost, n, z, 1), n)
    half = z * float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else float("nan")
    return Estimate(mean, float(mean - half), float(mean + half), n)


def balanced_accuracy(
    truth: Sequence[str], predicted: Sequence[str | None], groups: ArrayLike | None = None, *, seed: int = 0
) -> Estimate:
    """The mean of the classes' recalls with a bootstrap interval that resamples within each class, or whole groups."""
    if len(truth) != len(predicted) or not truth:
        raise ValueError(f"{len(predicted)} predictions of {len(truth)} items")
    labels = np.asarray(truth, object)
    right = np.asarray([t == p for t, p in zip(truth, predicted, strict=True)], np.float64)
    members = [labels == label for label in sorted(set(truth))]
    group = _group_numbers(len(truth), groups)
    if len(np.unique(group)) == len(truth):
        generator, classes = np.random.default_rng(seed), [right[member] for member in members]
        # A class's number of right answers in a resample of its n items is binomial in its observed recall.
        draws = np.mean([generator.binomial(len(c), c.mean(), _RESAMPLES) / len(c) for c in classes], axis=0)
    else:
        draws = _balanced_draws(right, members, group, seed)
    return _percentiles(float(np.mean([right[member].mean() for member in members])), draws, len(truth))


def _balanced_draws(
    right: NDArray[np.float64], members: Sequence[NDArray[np.bool_]], group: NDArray[np.intp], seed: int
) -> NDArray[np.float64]:
    """Balanced accuracies of resampled groups; a class that a resample has no item of is left out of its mean."""
    count = int(group.max()) + 1
    hits = np.stack([np.bincount(group[m], right[m], count) for m in members], axis=1)
    sizes = np.stack([np.bincount(group[m], minlength=count) for m in members], axis=1)
    draws = []
    for drawn in _resamples(count, seed):
        with np.errstate(invalid="ignore"):  # 0 of 0
            draws.append(np.nanmean(hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), axis=1))
    return np.concatenate(draws)


def _group_numbers(n: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """Each item's group as a number from 0 on."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def _resamples(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Numbers [block, count] of groups drawn with replacement, all resamples together."""
    generator = np.random.default_rng(seed)
    for _ in range(_RESAMPLES // _BLOCK):
        yield generator.integers(0, count, (_BLOCK, count))


def _percentiles(value: float, draws: NDArray[np.float64], n: int) -> Estimate:
    low, high = np.quantile(draws, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), n)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _tango(gained: int, lost: int, n: int, z: float, side: int) -> float:
    """One end of Tango's interval: the difference d at which the score test of d reaches z, by bisection."""

    def score(d: float) -> float:
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * d
        q = (np.sqrt(max(b * b - 4 * a * (-lost * d * (1 - d)), 0)) - b) / (2 * a)
        variance = n * (2 * q + d * (1 - d))
        distance = gained - lost - n * d
        if variance <= 1e-12:  # d of -1, 0 or 1 with nothing that speaks against it, or everything
            return float(np.copysign(np.inf, distance)) if distance else 0.0
        return float(distance / np.sqrt(variance))

    inside, outside = (gained - lost) / n, float(side)
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(score(middle)) < z:
            inside = middle
        else:
            outside = middle
    return inside
