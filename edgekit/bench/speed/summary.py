"""From what the rounds of a row measured to its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from edgekit.bench.records import Measurement
from edgekit.machine.roofline import Roofline
from edgekit.metrics import Estimate, quantile_interval

PERCENTILES = (50, 90, 99)
# Reasons as `edgekit.machine.disturbance` says them, with numbers that differ from row to row.
_OTHERS, _COUNTED = re.compile("other work took "), re.compile(" [0-9]+ times$")


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Median, least and largest over the rounds that have a figure; percentiles of single steps over all of them."""
    found: dict[str, list[float]] = {}
    for result in results:
        for name, value in result["figures"].items():
            found.setdefault(name, []).append(value)
    spread = {name: Estimate(median(values), min(values), max(values), len(values)) for name, values in found.items()}
    return {**spread, **_percentiles([result["samples"].get("step_ms", []) for result in results])}


def _percentiles(rounds: Sequence[Sequence[float]]) -> dict[str, Estimate]:
    """Of all rounds' steps, those that so many can carry."""
    every = [step for steps in rounds for step in steps]
    found = {f"step_p{percent}_ms": quantile_interval(every, percent / 100) for percent in PERCENTILES if every}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def details(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What else belongs to the figures: how much was measured, under which conditions, with what, and each sample."""
    conditions = [result["conditions"] for result in results]
    reasons = dict.fromkeys(one["disturbed"] for one in conditions if one["disturbed"])
    last = results[-1]
    return {
        "rounds": len(results),
        "disturbed": "; ".join(reasons) or None,
        "others_share": max(one["others_share"] for one in conditions),
        "governor": last["conditions"]["governor"],
        "temperature_c": max((t for one in conditions if (t := one["temperature_c"]) is not None), default=None),
        "limits": last["limits"],
        "threads": last["threads"],
        "runtimes": last["runtimes"],
        "prompt_tokens": last["prompt_tokens"],
        "steps": last["steps"],
        "started": [result["started"] for result in results],
        "prompt_s": [result["samples"].get("prompt_s", []) for result in results],
        "step_ms": [result["samples"].get("step_ms", []) for result in results],
    }


def limits_said(rows: Sequence[Measurement]) -> str:
    """A sentence on what shares are shares of; empty where no limit was measured."""
    found = next((limits for row in rows if (limits := row.details.get("limits"))), None)
    if found is None:
        return ""
    limits = Roofline.of(found)
    read = ", ".join(f"{value / 1e9:.1f} with {_threads(count)}" for count, value in limits.bandwidth.items())
    rates = ", ".join(f"{name} {rate.per_s / 1e9:.0f} ({rate.library})" for name, rate in limits.rates.items())
    return f" This machine reads memory at {read} GB/s, multiplies matrices at {rates} GFLOP/s; shares are of those."


def disturbance_said(rows: Sequence[Measurement]) -> str:
    """A sentence on rows whose figures are doubtful; empty where none is."""
    doubtful = [row.details for row in rows if row.details.get("disturbed")]
    if not doubtful:
        return ""
    said = [reason for one in doubtful for reason in re.split("[;,] ", one["disturbed"])]
    shares = [one.get("others_share") or 0.0 for one in doubtful]
    least, most = f"{min(shares):.0%}".rstrip("%"), f"{max(shares):.0%}".rstrip("%")
    reasons = [
        *([f"other work took up to {_range(least, most)} % of the cores"] if any(map(_OTHERS.match, said)) else []),
        *dict.fromkeys(_COUNTED.sub("", reason) for reason in said if not _OTHERS.match(reason)),
    ]
    which = f"{len(doubtful)} of {len(rows)} row{'' if len(rows) == 1 else 's'}"
    return f" Disturbed in {which}, so their times say little: {', '.join(reasons)}."


def _range(least: str, most: str) -> str:
    return most if least == most else f"{least} to {most}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
