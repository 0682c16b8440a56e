"""Figures that compare a model with its reference, and the intervals that say how far to trust them. Only numpy.

Distances between distributions are Kullback-Leibler divergences KL(reference || candidate) in nats; embeddings are
compared by cosine. Everything is computed in float64. Values that are not finite are never dropped: a row of logits
with NaN or an infinity has a divergence of inf, and a vector with one a cosine of NaN.

Intervals hold 95 % unless told otherwise. Bootstraps are seeded, so the same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Raised whenever a figure would change on the same predictions; records of different versions are not compared.
METRIC_VERSION = 1
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


@dataclass(frozen=True)
class Quantiles:
    """Mean and quantiles of n values; `nonfinite` of them were NaN or infinite and enter only that count."""

    mean: float
    median: float
    p90: float
    p99: float
    maximum: float
    n: int
    nonfinite: int


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Log probabilities [..., vocabulary] of logits, shifted by each row's maximum so that exp cannot overflow."""
    wide = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which callers report as what it is
        shifted = wide - wide.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl_divergence(reference: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    """KL(reference || candidate) in nats of each row.

    Args:
        reference: logits [n, vocabulary], or [vocabulary] for one row.
        logits: the candidate's, of the same shape.

    Returns:
        [n], at least 0; inf for a row in which either side has a value that is not finite.
    """
    expected, actual = _rows(reference), _rows(logits)
    if expected.shape != actual.shape:
        raise ValueError(f"logits of shape {actual.shape} against a reference of shape {expected.shape}")
    finite = np.isfinite(expected).all(axis=-1) & np.isfinite(actual).all(axis=-1)
    divergence = np.full(len(expected), np.inf)
    log_p, log_q = log_softmax(expected[finite]), log_softmax(actual[finite])
    # Rounding can take the sum a little below zero, which no divergence is.
    divergence[finite] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0)
    return divergence


def top1_agreement(reference: ArrayLike, logits: ArrayLike) -> NDArray[np.bool_]:
    """Whether both sides' largest logit is the same token, bool [n]; False for rows that are not finite."""
    expected, actual = _rows(reference), _rows(logits)
    finite = np.isfinite(expected).all(axis=-1) & np.isfinite(actual).all(axis=-1)
    return np.asarray((expected.argmax(axis=-1) == actual.argmax(axis=-1)) & finite)


def clear_top1_changes(reference: ArrayLike, logits: ArrayLike, margin: float) -> int:
    """Rows whose top token changed although the reference's two best logits differ by more than `margin`."""
    expected = _rows(reference)
    best = np.partition(expected, -2, axis=-1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > margin
    return int((clear & ~top1_agreement(expected, logits)).sum())


def cosine(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each pair of rows [n, width], [n]; NaN where a vector is zero or not finite."""
    left, right = _rows(a), _rows(b)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((left * right).sum(axis=-1) / norms)


def quantiles(values: ArrayLike) -> Quantiles:
    """Mean, median, 90th and 99th percentile and maximum of the finite values, and how many were not finite."""
    flat = np.asarray(values, np.float64).ravel()
    finite = flat[np.isfinite(flat)]
    if not len(finite):
        nan = float("nan")
        return Quantiles(nan, nan, nan, nan, nan, len(flat), len(flat))
    median, p90, p99 = np.quantile(finite, [0.5, 0.9, 0.99])
    mean, maximum = float(finite.mean()), float(finite.max())
    return Quantiles(mean, float(median), float(p90), float(p99), maximum, len(flat), len(flat) - len(finite))


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


def mean_interval(values: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0) -> Estimate:
    """The mean of n values with a percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Args:
        clusters: values with equal entries are not independent of each other, as the positions of one text; whole
            clusters are resampled then.
    """
    items = np.asarray(values, np.float64).ravel()
    if not len(items):
        raise ValueError("the mean of no values")
    mean = float(items.mean())
    if not np.isfinite(items).all():
        return Estimate(mean, float("nan"), float("nan"), len(items))
    group = np.arange(len(items)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums, sizes = np.bincount(group, items), np.bincount(group)
    generator, means = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES // _BLOCK):
        drawn = generator.integers(0, len(sums), (_BLOCK, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high), len(items))


def paired_interval(a: ArrayLike, b: ArrayLike, confidence: float = _CONFIDENCE) -> Estimate:
    """The mean of a - b over the same items, for scores that are 0 or 1 as well as for others.

    The two scores of an item are correlated, so the interval is that of the differences. For answers that are right
    or wrong it is the score interval of Tango, Stat. Med. 17 (1998) 891, which has a width even where no answer
    changed; for other scores it is the normal one.
    """
    left, right = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if left.shape != right.shape or not len(left):
        raise ValueError(f"paired scores of {len(left)} and {len(right)} items")
    difference = left - right
    n, mean, z = len(difference), float(difference.mean()), _z(confidence)
    if np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all():
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        return Estimate(mean, _tango(gained, lost, n, z, -1), _tango(gained, lost, n, z, 1), n)
    half = z * float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else float("nan")
    return Estimate(mean, float(mean - half), float(mean + half), n)


def balanced_accuracy(truth: Sequence[str], predicted: Sequence[str | None], *, seed: int = 0) -> Estimate:
    """The mean of the classes' recalls with a bootstrap interval that resamples within each class."""
    if len(truth) != len(predicted) or not truth:
        raise ValueError(f"{len(predicted)} predictions of {len(truth)} items")
    labels = np.asarray(truth, object)
    right = np.asarray([t == p for t, p in zip(truth, predicted, strict=True)], np.float64)
    generator = np.random.default_rng(seed)
    classes = [right[labels == label] for label in sorted(set(truth))]
    # A class's number of right answers in a resample of its n items is binomial in its observed recall.
    draws = np.mean([generator.binomial(len(c), c.mean(), _RESAMPLES) / len(c) for c in classes], axis=0)
    low, high = np.quantile(draws, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Estimate(float(np.mean([c.mean() for c in classes])), float(low), float(high), len(truth))


def _rows(values: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(values, np.float64))


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
