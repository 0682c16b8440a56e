"""Comparisons of a level with full precision on the same items: how large a difference is, and what it proves."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from edgekit.metrics.intervals import Estimate, paired_interval


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
    """Compare the scores of a level with full precision's, [n] each, in the same order."""
    return Comparison(paired_interval(scores, full_precision, groups=groups), margin=margin)
