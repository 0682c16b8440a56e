"""Bootstrap intervals, for figures that have no bounds or no formula: divergences, cosines, F1 over classes.

BCa (Efron, J. Am. Stat. Assoc. 82 (1987) 171): corrected for bias and skewness, by resampling whole groups, with the
levels of few groups widened (Hesterberg, Am. Stat. 69 (2015) 371). Seeded: the same scores give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.metrics.distributions import normal_quantile, normal_share, student_quantile
from edgekit.metrics.estimates import CONFIDENCE, Estimate, group_numbers

_RESAMPLES = 2000
_DRAWN = 2_000_000  # numbers drawn at a time, about, which bounds memory
_METHOD = "BCa bootstrap"

Weights = NDArray[np.float64]


def mean_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """The mean of n values; scores between 0 and 1 have `share_interval`.

    An end is the outer one of BCa's and the studentized bootstrap's, which does better with few and skewed groups.
    Simulated, 300 samples of 5 to 400 values or groups: it covers 95 % of normal and 93 to 96 % of exponential ones,
    88 to 96 % of lognormal ones (sigma 1; as group means of different sizes 87 to 94 %), 72 to 90 % at sigma 2. Where
    only a twentieth of the values is not 0, it takes 100 of them: 20 cover 55 %.

    Args:
        groups: values with equal entries are not independent of each other, as the positions of one text.
        least, most: what no value can lie below or above, as a divergence below 0; no end does either.

    Returns:
        Finite ends; of NaN where nothing can be known: a value is not finite, or all are of one group.
    """
    items = np.asarray(values, np.float64).ravel()
    if not len(items):
        raise ValueError("the mean of no values")
    group = group_numbers(len(items), groups)
    sums, sizes = (np.asarray(np.bincount(group, each), np.float64) for each in (items, np.ones(len(items))))
    mean, count = float(items.mean()), len(sums)
    if not np.isfinite(items).all() or count == 1:
        return Estimate(mean, math.nan, math.nan, len(items), count)
    if (items == items[0]).all():
        return Estimate(mean, mean, mean, len(items), count, "all alike")
    blocks = [_ratios(sums[drawn], sizes[drawn]) for drawn in _resamples(count, seed)]
    draws, errors = (np.concatenate(part) for part in zip(*blocks, strict=True))
    left_out = (items.sum() - sums) / (len(items) - sizes)
    (error,) = _ratios(sums[None], sizes[None])[1]
    ends = [_bca(mean, draws, left_out, confidence), _studentized(mean, float(error), draws, errors, confidence)]
    # Rounding may have put the mean itself next to a bound, on its other side.
    low = max(min(end[0] for end in ends), min(least, mean))
    high = min(max(end[1] for end in ends), max(most, mean))
    return Estimate(mean, low, high, len(items), count, f"{_METHOD}, studentized")


def bootstrap_interval(
    figure: Callable[[Weights], float], n: int, groups: ArrayLike | None = None, *, seed: int = 0
) -> Estimate:
    """A figure of n items that is no mean, as F1 over classes or an area under a curve.

    Args:
        figure: the figure where item i counts `weights[i]` times, [n] whole numbers, some of them 0; NaN where it is
            not defined, as the recall of a class that no item has.

    Returns:
        Ends of NaN for one group, or where the figure of the items themselves is not defined.
    """
    if not n:
        raise ValueError("a figure of no items")
    group = group_numbers(n, groups)
    count, value = int(group.max()) + 1, float(figure(np.ones(n)))
    if count == 1 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, n, count)
    draws = np.asarray(
        [
            figure(np.bincount(row, minlength=count).astype(np.float64)[group])
            for drawn in _resamples(count, seed)
            for row in drawn
        ]
    )
    left_out = np.asarray([figure((group != g).astype(np.float64)) for g in range(count)])
    low, high = _bca(value, draws[np.isfinite(draws)], left_out[np.isfinite(left_out)], CONFIDENCE)
    return Estimate(value, low, high, n, count, _METHOD)


def _ratios(sums: Weights, sizes: Weights) -> tuple[Weights, Weights]:
    """Means of resamples of groups, [resamples, groups], and their standard errors as cluster samples."""
    total, count = sizes.sum(axis=1), sizes.shape[1]
    means = sums.sum(axis=1) / total
    deviations = sums - means[:, None] * sizes
    return means, np.sqrt(count / (count - 1) * (deviations**2).sum(axis=1)) / total


def _studentized(mean: float, error: float, draws: Weights, errors: Weights, confidence: float) -> tuple[float, float]:
    """The ends by how many of their own standard errors resampled means are off (Efron and Tibshirani 1993, 12.5).

    A resample whose groups are all alike, up to rounding, knows nothing of its error: it counts as the smallest of the
    others', for none at all would put the ends infinitely far away.
    """
    known = errors > 1e-9 * error
    if not known.any():  # so do the groups themselves
        return mean, mean
    off = (draws - mean) / np.where(known, errors, errors[known].min())
    low, high = np.quantile(off, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return mean - high * error, mean - low * error


def _bca(value: float, draws: Weights, left_out: Weights, confidence: float) -> tuple[float, float]:
    """The ends from resampled figures, and from those without one group each, which show the skewness."""
    if len(draws) == 0 or len(left_out) < 2:
        return math.nan, math.nan
    below = float((draws < value).mean() + (draws == value).mean() / 2)
    bias = normal_quantile(min(max(below, 1 / (len(draws) + 1)), len(draws) / (len(draws) + 1)))
    pulls = left_out.mean() - left_out
    spread = float((pulls**2).sum())
    skew = float((pulls**3).sum()) / (6 * spread**1.5) if spread else 0.0
    count = len(left_out)
    wide = math.sqrt(count / (count - 1)) * student_quantile((1 + confidence) / 2, count - 1)
    low, high = (float(np.quantile(draws, _level(bias, skew, side * wide))) for side in (-1, 1))
    return min(low, value), max(high, value)


def _level(bias: float, skew: float, z: float) -> float:
    """The share of resamples below an end that would be the z-th of a normal distribution."""
    moved = bias + z
    # Skewness that no transformation to a normal distribution explains: as far out as there are resamples.
    return normal_share(bias + moved / (1 - skew * moved)) if skew * moved < 1 else float(z > 0)


def _resamples(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Numbers [block, count] of groups drawn with replacement; blocks of any size give the same numbers."""
    generator = np.random.default_rng(seed)
    block = max(1, _DRAWN // count)
    for start in range(0, _RESAMPLES, block):
        yield generator.integers(0, count, (min(block, _RESAMPLES - start), count))
