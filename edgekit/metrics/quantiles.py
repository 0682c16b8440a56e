"""Percentiles, and how many values one takes: the 99th of a hundred values is only their largest by another name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgekit.metrics.distributions import beta_share
from edgekit.metrics.estimates import CONFIDENCE, Estimate, effective_items, group_numbers

_BEYOND = 0.01  # the risk that fewer than two values lie beyond the percentile


@dataclass(frozen=True)
class Quantiles:
    """Mean and quantiles of n values; `nonfinite` of them were NaN or infinite and enter only that count.

    Attributes:
        p90: None where the sample cannot carry it, which takes 64 independent values.
        p99: None where the sample cannot carry it, which takes 662.
    """

    mean: float
    median: float
    p90: float | None
    p99: float | None
    maximum: float
    n: int
    nonfinite: int


def quantiles(values: ArrayLike, groups: ArrayLike | None = None) -> Quantiles:
    """Mean, median, 90th and 99th percentile and maximum, and how many values were not finite.

    Those count as larger than any other, so that no gate passes for them: with one, mean and maximum are infinite.

    Args:
        groups: values with equal entries are not independent, and carry less.
    """
    flat = np.asarray(values, np.float64).ravel()
    finite = np.isfinite(flat)
    kept, group = np.where(finite, flat, np.inf), group_numbers(len(flat), groups)
    if not len(kept):
        return Quantiles(math.nan, math.nan, None, None, math.nan, 0, 0)
    p90, p99 = (quantile_interval(kept, share, group) for share in (0.9, 0.99))
    return Quantiles(
        mean=float(kept.mean()),
        median=float(np.median(kept)),
        p90=p90.value if p90 else None,
        p99=p99.value if p99 else None,
        maximum=float(kept.max()),
        n=len(flat),
        nonfinite=int((~finite).sum()),
    )


def quantile_interval(values: ArrayLike, share: float, groups: ArrayLike | None = None) -> Estimate | None:
    """The value that this share of n values does not exceed, above the median, with an interval of order statistics.

    It holds for values of any distribution (Conover, Practical Nonparametric Statistics, 1999, 3.2); groups count by
    how unevenly the values beyond it are spread over them (Woodruff, J. Am. Stat. Assoc. 47 (1952) 635). Values that
    are not finite count as larger than any other. Simulated with exponential values in 25 to 200 lognormal groups, it
    covers 93 to 97 % where most samples carry the percentile.

    Returns:
        None where the sample cannot carry it: of so many independent values, more than one run in a hundred would have
        fewer than two beyond it. The 90th percentile takes 64 values, the 99th 662.
    """
    if not 0.5 <= share < 1:
        raise ValueError(f"the quantile at {share}")
    flat = np.asarray(values, np.float64).ravel()
    group = group_numbers(len(flat), groups)
    if not len(flat):
        return None
    ordered = np.where(np.isfinite(flat), flat, np.inf)
    n, count, value = len(flat), int(group.max()) + 1, float(np.quantile(ordered, share, method="inverted_cdf"))
    beyond = (ordered > value).astype(np.float64)
    effective = effective_items(beyond, float(beyond.mean() * (1 - beyond.mean())), group)
    if _at_least(effective - 1, effective, share) > _BEYOND:
        return None
    ordered.sort()
    error = (1 - CONFIDENCE) / 2
    # Of n independent values, the k-th is above the true quantile with the chance that fewer than k lie below that.
    above = next(k for k in range(int(n * share), n + 1) if _at_least(k * effective / n, effective, share) <= error)
    below = next((k for k in range(int(n * share), 0, -1) if _below(k * effective / n, effective, share) <= error), 1)
    return Estimate(value, float(ordered[below - 1]), float(ordered[above - 1]), n, count, "order statistics")


def _at_least(k: float, n: float, share: float) -> float:
    """How likely at least k of n values lie below the quantile of this share."""
    return beta_share(share, k, n - k + 1) if k > 0 else 1.0


def _below(k: float, n: float, share: float) -> float:
    """How likely fewer than k of n values do."""
    return 1 - _at_least(k, n, share)
