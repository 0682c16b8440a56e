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


def effective_items(
    values: NDArray[np.float64], item: float, group: NDArray[np.intp], confidence: float = CONFIDENCE
) -> float:
    """How many independent items, each of this variance, would know as much of the mean of values, [n].

    Where all values are alike, nothing shows how items hang together: each group counts as one item, or less where
    sizes differ; so do all items of a single group (Kish, Survey Sampling, 1965, 8.2). It is never less than that:
    items that hang together wholly know as much. So one pair among single items changes next to nothing.

    Args:
        item: the variance of one item that is right or wrong, with this mean.
        confidence: of the interval that is made of it: a variance known from few groups is worth less.
    """
    sizes = np.bincount(group).astype(np.float64)
    whole = len(sizes) == len(values) and np.isin(values, (-1, 0, 1)).all()
    same = len(sizes) == 1 or (values == values[0]).all()
    variance = 0.0 if whole or same else _variance(values - values.mean(), group, confidence)
    least = float(sizes.sum() ** 2 / (sizes**2).sum())
    return max(item / variance, least) if variance else least


def _variance(deviations: NDArray[np.float64], group: NDArray[np.intp], confidence: float) -> float:
    """The variance of a mean of n values whose deviations from it are given, by how much whole groups deviate.

    The linearized ratio estimator of cluster samples (Cochran, Sampling Techniques, 1977, 6.5). It is never less than
    if the items were independent: a smaller one is an accident of few groups. So that a normal quantile fits, it is
    enlarged by (t / z)^2 (Korn and Graubard 1998). The degrees of freedom of t are those of groups less one, or fewer
    where few groups make up the sum: as many as their kurtosis leaves of a normal distribution's.
    """
    count, squares = int(group.max()) + 1, np.bincount(group, deviations) ** 2
    total, single, fourth = float(squares.sum()), float((deviations**2).sum()), float((squares**2).sum())
    freedom = min(count - 1.0, 3 * total**2 / fourth) if fourth else count - 1.0
    share = (1 + confidence) / 2
    enlarged = (student_quantile(share, freedom) / normal_quantile(share)) ** 2
    return enlarged * max(count / (count - 1) * total, single) / len(deviations) ** 2
