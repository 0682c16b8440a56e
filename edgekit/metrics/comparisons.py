"""Comparisons of a level with full precision on the same items: how large a difference is, and what it proves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.metrics.distributions import normal_quantile
from edgekit.metrics.estimates import Estimate
from edgekit.metrics.paired import Changes, changes, paired_interval, unchanged_p

_POWER = 0.8  # 4 of 5 runs


@dataclass(frozen=True)
class Comparison:
    """Scores minus full precision's on the same items.

    Attributes:
        difference: its mean, with a 95 % interval.
        p: of no difference at all, two-sided; None where no test fits the scores.
        adjusted_p: the same, corrected for the levels that were compared with one full-precision model; None before.
        margin: how much less still counts as equal, in the scores' unit; None where nothing was asked for.
        within: whether the difference is proven to lie within the margin (two one-sided tests at 5 %).
        gained: items that became right; None where scores are not right or wrong.
        lost: items that became wrong.
        items_needed: how many items would show a drop of the margin in 4 of 5 runs; None where these suffice.
    """

    difference: Estimate
    p: float | None = None
    adjusted_p: float | None = None
    margin: float | None = None
    within: bool | None = None
    gained: int | None = None
    lost: int | None = None
    items_needed: int | None = None


def compare(
    scores: ArrayLike, full_precision: ArrayLike, groups: ArrayLike | None = None, *, margin: float | None = None
) -> Comparison:
    """Compare the scores of a level, right (1) or wrong (0) or between, with full precision's, [n] each, in one order.

    Args:
        groups: items with equal entries are not independent.
        margin: above 0; how much less still counts as equal.

    Raises:
        ValueError: no items, not as many of either, a score that is not between 0 and 1, or a margin that is not.
    """
    found = changes(scores, full_precision, groups)
    if margin is not None and not 0 < margin < 1:
        raise ValueError(f"a margin of {margin}")
    within = None
    if margin is not None:
        # Both one-sided tests at 5 % hold exactly where the 90 % interval lies inside (Schuirmann 1987; for right and
        # wrong answers Liu et al., Stat. Med. 21 (2002) 231).
        inner = paired_interval(scores, full_precision, 0.9, groups=groups)
        within = bool(-margin < inner.low and inner.high < margin)
    needed = items_needed(found, margin) if margin is not None else len(found.differences)
    return Comparison(
        difference=paired_interval(scores, full_precision, groups=groups),
        p=unchanged_p(found),
        margin=margin,
        within=within,
        gained=int((found.differences > 0).sum()) if found.binary else None,
        lost=int((found.differences < 0).sum()) if found.binary else None,
        items_needed=needed if needed > len(found.differences) else None,
    )


def items_needed(found: Changes, margin: float) -> int:
    """How many items, in groups as large as these, a run needs to show a drop of the margin in 4 of 5 runs.

    Connor, Biometrics 43 (1987) 207: a paired test at 5 %, two-sided, where as many items change as did here, and at
    least as many as the drop itself takes.
    """
    n = len(found.differences)
    change = max(float(np.abs(found.differences).sum()) / n, margin)
    reach = normal_quantile(0.975) * math.sqrt(change) + normal_quantile(_POWER) * math.sqrt(change - margin**2)
    return math.ceil((reach / margin) ** 2 * n / found.effective())


def holm(p_values: ArrayLike) -> list[float]:
    """The p values corrected for being several, in their order. Holm, Scand. J. Stat. 6 (1979) 65."""
    given: NDArray[np.float64] = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    adjusted = np.empty_like(given)
    adjusted[order] = stepped
    return [float(p) for p in adjusted]
