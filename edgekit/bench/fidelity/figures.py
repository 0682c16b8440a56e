"""What distances from full precision say: divergence, agreement, perplexity, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from edgekit import metrics
from edgekit.bench.fidelity.distances import Distances
from edgekit.bench.records import Measurement
from edgekit.metrics import Estimate

_SHARES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
# Full precision's probability of its top token: where it guesses, where it leans, where it knows.
CONFIDENCE = (0.0, 0.5, 0.9, 0.99, 1.0)


def figures(given: Distances, where: str = "") -> dict[str, Estimate]:
    """Means and percentiles of the divergence, agreement of the top token, and perplexity where a text was given.

    Args:
        where: what the figures' names end with.
    """
    kl, groups = given.column("kl"), np.asarray(given.groups)
    found = {f"kl{where}": metrics.mean_interval(kl, groups, least=0)}
    for name, share in _SHARES.items():
        if carried := metrics.quantile_interval(kl, share, groups):
            found[f"kl{where}_{name}"] = carried
    found[f"top1{where}"] = metrics.share_interval(given.column("agrees"), groups)
    if given.loss:
        loss, expected = given.column("loss"), given.column("expected_loss")
        found[f"perplexity{where}"] = _exponential(metrics.mean_interval(loss, groups, least=0))
        found[f"perplexity_ratio{where}"] = _exponential(metrics.mean_interval(loss - expected, groups))
    return found


def details(given: Distances, floor: Distances | None) -> dict[str, Any]:
    """What else belongs to them.

    Args:
        floor: full precision in bfloat16, at the same positions; None for full precision itself.
    """
    kl, groups = given.column("kl"), np.asarray(given.groups)
    said = {
        "kl_quantiles": asdict(metrics.quantiles(kl, groups)),
        "positions": len(kl),
        "groups": len(set(given.groups)),
        "clear_top1_changes": given.clear_changes,
        "nonfinite": given.nonfinite,
        **_by_confidence(given),
    }
    if floor is None:
        return said
    noise = floor.column("kl")
    beyond = not np.isfinite(kl).all() or metrics.mean_interval(kl - noise, groups).low > 0
    same = metrics.mean_interval(noise, groups, least=0), metrics.share_interval(floor.column("agrees"), groups)
    return {
        **said,
        "noise_floor": {"kl": asdict(same[0]), "top1": asdict(same[1])},
        "beyond_noise": bool(beyond),
    }


def noise(first: Measurement, rows: Sequence[Measurement]) -> str:
    """The report's words for the noise floor, and how many rows are not beyond it."""
    if first.noise_floor is None:
        return ""
    judged = [beyond for row in rows if (beyond := row.details.get("beyond_noise")) is not None]
    within = judged.count(False)
    more = f", and {within} of {len(judged)} rows are not beyond it, which is no damage" if within else ""
    return f"; noise floor (full precision in bfloat16 against float32) {first.noise_floor:.2g} nats{more}"


def _by_confidence(given: Distances) -> dict[str, dict[str, Any]]:
    """Divergence and agreement where full precision's top token has a probability from one bound up to another."""
    kl, agrees, groups = given.column("kl"), given.column("agrees"), np.asarray(given.groups)
    bins = np.digitize(given.column("confidence"), CONFIDENCE[1:-1])
    found: dict[str, dict[str, Any]] = {"kl_by_confidence": {}, "top1_by_confidence": {}}
    for number, (low, high) in enumerate(pairwise(CONFIDENCE)):
        chosen = bins == number
        if chosen.any():
            where = f"{low:g} to {high:g}"
            found["kl_by_confidence"][where] = asdict(metrics.mean_interval(kl[chosen], groups[chosen], least=0))
            found["top1_by_confidence"][where] = asdict(metrics.share_interval(agrees[chosen], groups[chosen]))
    return found


def _exponential(mean: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(bound)) for bound in (mean.value, mean.low, mean.high))
    return Estimate(value, low, high, mean.n)


def floor(full_precision: Any) -> Distances | None:
    """What the full-precision row's `run` says of itself in bfloat16; None where nobody could run that."""
    found = full_precision.get("floor")
    return Distances.of(found) if found else None
