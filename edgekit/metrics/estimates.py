"""What a figure is worth: its interval, and how many independent items stand behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.metrics.distributions import normal_quantile, student_quantile

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and the number of items it rests on.

    Attributes:
        low: the interval's lower end, NaN where nothing is known of it: one group, or values that are not finite.
        n: items.
        groups: how many groups these are of, the items that are independent; None where that was not looked at.
        method: how the interval was made; empty where it is none of probability, as the range of a few rounds.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int | None = None
    method: str = ""


def group_numbers(n: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """Each of n items' group as a number from 0 on, [n]; every item is its own group for None."""
    if groups is None:
        return np.arange(n)
    given = np.asarray(groups)
    if given.shape != (n,):
        raise ValueError(f"groups of shape {given.shape} for {n} items")
    return np.unique(given, return_inverse=True)[1]


def group_variance(deviations: NDArray[np.float64], group: NDArray[np.intp]) -> float:
    """The variance of a mean of n values whose deviations from it are given, [n], from how much whole groups deviate.

    The linearized ratio estimator of cluster samples (Cochran, Sampling Techniques, 1977, 6.5). It is never less than
    if the items were independent: a smaller one is an accident of a few groups. inf for one group.
    """
    count = int(group.max()) + 1
    if count == 1:
        return float("inf")
    sums = np.bincount(group, deviations)
    spread = max(count / (count - 1) * float((sums**2).sum()), float((deviations**2).sum()))
    return spread / len(deviations) ** 2


def freedom_factor(groups: int, confidence: float) -> float:
    """What a variance known from few groups takes off the effective items: (z / t)^2 (Korn and Graubard 1998)."""
    share = (1 + confidence) / 2
    return (normal_quantile(share) / student_quantile(share, groups - 1)) ** 2
