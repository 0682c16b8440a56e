"""Percentiles of scores with intervals that resample groups: no percentile that the sample cannot carry."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgekit.metrics.intervals import Estimate

# Share -> fewest values that carry it: of so many, the chance that none lies beyond the percentile is about 1 in 1,000
# (0.9^64, 0.99^662), and the largest values are not mistaken for it.
LEAST = {0.5: 1, 0.9: 64, 0.99: 662}
_RESAMPLES = 1000


def percentile_intervals(values: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> dict[float, Estimate]:
    """Percentiles by their share, with a percentile bootstrap interval at 95 %, of those that n values carry.

    Args:
        groups: values with equal entries are not independent of each other; whole groups are resampled.
    """
    items = np.asarray(values, np.float64).ravel()
    shares = [share for share, least in LEAST.items() if len(items) >= least]
    if not shares:
        return {}
    found = np.quantile(items, shares, method="lower")
    if not np.isfinite(items).all():
        nan = float("nan")
        return {share: Estimate(float(v), nan, nan, len(items)) for share, v in zip(shares, found, strict=True)}
    numbers = np.arange(len(items)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]
    generator = np.random.default_rng(seed)
    found, draws = np.quantile(items, shares), []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(0, len(members), len(members))
        draws.append(np.quantile(items[np.concatenate([members[number] for number in drawn])], shares))
    low, high = np.quantile(np.stack(draws), [0.025, 0.975], axis=0).tolist()
    bounds = zip(shares, found.tolist(), low, high, strict=True)
    return {share: Estimate(value, lowest, highest, len(items)) for share, value, lowest, highest in bounds}
