"""Figures of scores that only put items in order: the area under a ROC curve, recall of retrieval, changed ranks.

An area is a mean over pairs of one positive and one negative item, so its variance is not that of a share. What each
item adds to its error (its influence) is: areas are averaged, subtracted, and their items gathered in groups by adding
influences. For one area and groups of one item each that is exactly the variance of DeLong, DeLong and Clarke-Pearson,
Biometrics 44 (1988) 837; with larger groups Obuchowski's, Biometrics 53 (1997) 567.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.metrics.comparisons import Comparison, Estimate

Floats = NDArray[np.float64]

_Z = NormalDist().inv_cdf(0.975)
_Z_ONE_SIDED = NormalDist().inv_cdf(0.95)
_Z_POWER = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Ranking:
    """How well scores put positive items above negative ones, over one question or the mean over several.

    Attributes:
        area: under the ROC curve, ties counting half.
        influence: what each item adds to the area's error, [n]; 0 for items that are not asked about.
        reach: how far each item can move the area, from one end of the order to the other, [n].
        positives, negatives: groups with such an item; of several questions the fewest.
        n: items that are asked about.
    """

    area: float
    influence: Floats
    reach: Floats
    positives: int
    negatives: int
    n: int


def ranked(truth: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Ranking:
    """The ranking of items by their scores.

    Args:
        truth: 1 positive, 0 negative, NaN where nobody knows, [n].
        scores: larger is more positive, [n]; one that is no number ranks against its own truth: a positive item lowest,
            a negative one highest.
        groups: items with equal entries are not independent.

    Raises:
        ValueError: no item is positive, or none negative.
    """
    known, given = np.asarray(truth, np.float64).ravel(), np.asarray(scores, np.float64).ravel()
    if known.shape != given.shape:
        raise ValueError(f"{len(given)} scores of {len(known)} items")
    given = np.where(np.isnan(given), np.where(known == 1, -np.inf, np.inf), given)
    group = _numbers(len(known), groups)
    up, down = np.flatnonzero(known == 1), np.flatnonzero(known == 0)
    if not len(up) or not len(down):
        raise ValueError(f"{len(up)} positive and {len(down)} negative items: an area needs both")
    above = _share_below(given[up], given[down])  # of the negatives, for each positive
    below = 1 - _share_below(given[down], given[up])  # of the positives that stand above, for each negative
    area = float(above.mean())
    positives, negatives = len(np.unique(group[up])), len(np.unique(group[down]))
    influence, reach = np.zeros(len(known)), np.zeros(len(known))
    reach[up], reach[down] = 1 / len(up), 1 / len(down)
    influence[up] = (above - area) / len(up) * _unbiased(positives)
    influence[down] = (below - area) / len(down) * _unbiased(negatives)
    return Ranking(area, influence, reach, positives, negatives, len(up) + len(down))


def mean_ranking(rankings: Sequence[Ranking]) -> Ranking:
    """The mean area over several questions about the same items."""
    if not rankings:
        raise ValueError("the mean of no rankings")
    return Ranking(
        float(np.mean([each.area for each in rankings])),
        np.mean([each.influence for each in rankings], axis=0),
        np.mean([each.reach for each in rankings], axis=0),
        min(each.positives for each in rankings),
        min(each.negatives for each in rankings),
        max(each.n for each in rankings),
    )


def area_interval(given: Ranking, groups: ArrayLike | None = None) -> Estimate:
    """An area with its 95 % interval, made on the logit scale so that it stays between 0 and 1.

    Where no item adds to the error (all positives stand above all negatives, or below), it is that of Newcombe, Stat.
    Med. 25 (2006) 559, method 5, with each group as one item.
    """
    area, error = given.area, standard_error(given.influence, groups)
    if error == 0 or not 0 < area < 1:
        return Estimate(area, *_newcombe(area, given.positives, given.negatives), given.n)
    middle, half = np.log(area / (1 - area)), _Z * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-np.array([middle - half, middle + half])))
    return Estimate(area, float(low), float(high), given.n)


def compare_rankings(
    given: Ranking, full_precision: Ranking, groups: ArrayLike | None = None, *, margin: float | None = None
) -> Comparison:
    """An area minus full precision's on the same items.

    The influence sees the items that changed here. A level may break one item in a hundred, and a sample without that
    item cannot know. So the interval has all differences that a score test does not refuse: of a true difference D the
    variance is at least |D| times `reach`, that of whole items which fall, as rarely as makes D, from one end of the
    order to the other (Poisson's law). `p` is of no difference: there it has DeLong's error alone.

    Simulated, of 14, 100, 600 and 2,000 positive items and as many negative ones, 1,000 or 2,000 runs each: true drops
    of 0.01 and 0.05 of an area of 0.85, by positive items that fall or by noise on all scores. Within a margin of 0.01
    were declared at most 3.6 % of the former and none of the latter; the interval had the drop in 95 % and more.
    Args:
        margin: how much less still counts as equal; `within` is None where more items are needed to tell.
    """
    difference = given.area - full_precision.area
    error = standard_error(given.influence - full_precision.influence, groups)
    reach = float(np.bincount(_numbers(len(given.reach), groups), given.reach).max())
    estimate = Estimate(difference, *_ends(difference, error, reach, _Z), given.n)
    p = 2 * NormalDist().cdf(-abs(difference) / error) if error else 1.0
    if margin is None:
        return Comparison(estimate, p)
    needed = int(np.ceil(given.n * max(error**2, margin * reach) * ((_Z + _Z_POWER) / margin) ** 2))
    if needed > given.n:
        return Comparison(estimate, p, margin=margin, items_needed=needed)
    low, high = _ends(difference, error, reach, _Z_ONE_SIDED)
    return Comparison(estimate, p, margin=margin, within=-margin < low and high < margin)


def standard_error(influence: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Of a figure to whose error each item adds so much, [n]."""
    added = np.asarray(influence, np.float64).ravel()
    return float(np.sqrt(np.square(np.bincount(_numbers(len(added), groups), added)).sum()))


def first_relevant_ranks(similarity: ArrayLike, relevant: ArrayLike, candidates: ArrayLike | None = None) -> Floats:
    """The rank, from 1 on, at which each query meets its first relevant item, [queries]; inf where it has none.

    Items as similar as that one stand before it: a model that finds all alike finds nothing.

    Args:
        similarity: of queries and items, [queries, items]; no number counts as the lowest.
        relevant: which items answer a query, bool of the same shape.
        candidates: which items it may find at all, bool of the same shape; all for None.
    """
    found, answers = _without_nan(similarity), np.asarray(relevant, bool)
    allowed = np.ones_like(answers) if candidates is None else np.asarray(candidates, bool)
    if not found.shape == answers.shape == allowed.shape:
        raise ValueError(f"relevance {answers.shape}, candidates {allowed.shape} of similarities {found.shape}")
    answers = answers & allowed
    best = np.max(found, axis=1, where=answers, initial=-np.inf)
    before = (found >= best[:, None]) & allowed & ~answers
    return np.where(answers.any(axis=1), 1.0 + before.sum(axis=1), np.inf)


def recall_at(ranks: ArrayLike, k: int) -> Floats:
    """1 for each query that meets a relevant item among its first k, else 0; ranks as `first_relevant_ranks` has."""
    return np.asarray(np.asarray(ranks, np.float64) <= k, np.float64)


def top_overlap(expected: ArrayLike, actual: ArrayLike, k: int) -> Floats:
    """The share of each row's k largest entries that are among the other's k largest, [rows].

    Of equal entries the first counts as the largest.
    """
    one, other = _without_nan(expected), _without_nan(actual)
    if one.shape != other.shape or not 0 < k <= one.shape[1]:
        raise ValueError(f"the {k} largest of rows {other.shape}, full precision's {one.shape}")
    first, second = (np.argsort(-rows, axis=1, kind="stable")[:, :k] for rows in (one, other))
    return np.asarray((first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1))


def swapped_pairs(expected: ArrayLike, actual: ArrayLike) -> Floats:
    """The share of pairs of columns that stand in another order than in full precision's row, [rows].

    Without ties that is half of what Kendall's tau lacks to 1. A pair that is equal in one row alone counts half.
    """
    one, other = _without_nan(expected), _without_nan(actual)
    if one.shape != other.shape or one.shape[1] < 2:
        raise ValueError(f"orders of rows {other.shape}, full precision's {one.shape}")
    i, j = np.triu_indices(one.shape[1], 1)
    with np.errstate(invalid="ignore"):  # of two infinities
        first, second = (np.nan_to_num(np.sign(rows[:, i] - rows[:, j])) for rows in (one, other))
    return np.asarray(np.abs(first - second).mean(axis=1) / 2)


def _without_nan(rows: ArrayLike) -> Floats:
    given = np.atleast_2d(np.asarray(rows, np.float64))
    return np.where(np.isnan(given), -np.inf, given)


def _share_below(values: Floats, others: Floats) -> Floats:
    """The share of others that each value stands above, equal ones counting half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(ordered)))


def _unbiased(groups: int) -> float:
    """What makes a sum of squares about a mean of so many groups unbiased: of one alone no variance is known."""
    return float(np.sqrt(groups / (groups - 1))) if groups > 1 else float("nan")


def _ends(difference: float, error: float, reach: float, z: float) -> tuple[float, float]:
    """The least and the largest D around a difference with (difference - D)^2 <= z^2 max(error^2, |D| reach)."""

    def end(difference: float) -> float:
        """The largest; where a difference of 0 is refused, so is what lies behind it."""
        plain, middle = difference + z * error, difference + z**2 * reach / 2
        inside = middle**2 - difference**2
        return plain if plain < 0 or inside < 0 else max(plain, middle + float(np.sqrt(inside)))

    return -end(-difference), end(difference)


def _numbers(n: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """Each item's group as a number from 0 on."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def _newcombe(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Where an area is z of its own standard errors away, by bisection."""

    def distance(theta: float) -> float:
        half = (positives + negatives) / 2 - 1
        spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        variance = theta * (1 - theta) * spread / (positives * negatives)
        return abs(theta - area) - _Z * float(np.sqrt(variance))

    ends = []
    for outside in (0.0, 1.0):
        inside = area
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) < 0 else (inside, middle)
        ends.append(outside)
    return ends[0], ends[1]
