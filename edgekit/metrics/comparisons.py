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
        items_needed: how many items would show a drop of the margin in 4 of 5 runs; None where these suffice, or where
            they have shown that there is one, or none.
        changed: how much an item's score changed, up or down, on average; None where scores only put items in order.
        effective: how many independent items that are right or wrong would know as much; None where `changed` is.
    """

    difference: Estimate
    p: float | None = None
    adjusted_p: float | None = None
    margin: float | None = None
    within: bool | None = None
    gained: int | None = None
    lost: int | None = None
    items_needed: int | None = None
    changed: float | None = None
    effective: float | None = None


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
    difference = paired_interval(scores, full_precision, groups=groups)
    asked = margin is not None and not within and not difference.high < 0
    needed = items_needed(found, margin) if margin is not None and asked else 0
    return Comparison(
        difference=difference,
        p=unchanged_p(found),
        margin=margin,
        within=within,
        gained=int((found.differences > 0).sum()) if found.binary else None,
        lost=int((found.differences < 0).sum()) if found.binary else None,
        items_needed=needed if needed > len(found.differences) else None,
        changed=float(np.abs(found.differences).mean()),
        effective=found.effective(),
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


def items_to_prove(found: Comparison, margin: float, *, error: float = 0.05, sides: int = 2) -> int | None:
    """How many items, in groups as large as these, would prove a level that lost nothing to lie within a margin.

    In 4 of 5 runs by two one-sided tests, where as many items change as did here, as often for better as for
    worse (Liu et al., Stat. Med. 21 (2002) 231). Each test's variance is the score test's, that of the likeliest rates
    under a drop of just the margin (Tango 1998); so a level that changes nothing takes items, too.

    Args:
        error: of each test.
        sides: 1 where a drop alone is asked about.

    Returns:
        None where nothing is known of the spread.
    """
    n, test, power = found.difference.n, normal_quantile(1 - error), normal_quantile(1 - (1 - _POWER) / sides)
    if found.changed is None or not found.effective:
        # Of the interval's width alone, which two of its standard errors make.
        deviation = (found.difference.high - found.difference.low) / (2 * normal_quantile(0.975))
        return math.ceil(n * ((test + power) * deviation / margin) ** 2) if math.isfinite(deviation) else None
    less = 2 * margin - found.changed
    worse = (math.sqrt(less**2 + 4 * found.changed * margin * (1 - margin)) - less) / 4
    supposed = 2 * worse + margin - margin**2
    reach = test * math.sqrt(supposed) + power * math.sqrt(found.changed)
    return math.ceil((reach / margin) ** 2 * n / found.effective)


def holm(p_values: ArrayLike) -> list[float]:
    """The p values corrected for being several, in their order. Holm, Scand. J. Stat. 6 (1979) 65."""
    given: NDArray[np.float64] = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    adjusted = np.empty_like(given)
    adjusted[order] = stepped
    return [float(p) for p in adjusted]
