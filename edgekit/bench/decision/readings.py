"""A row's figures by the names that people ask for them; what a figure is called is its kind's business.

Every key of a measurement's `metrics` is a name. From those follow

    X_drop           points that the items' scores lost to full precision on the same items, for a headline X
    X_p90, X_p99     what a kind says of X's distribution in the detail `X_quantiles`; without an interval
    X_s for X_ms     and `_ms` for `_s`, `_mb` and `_gb` for `_bytes`: the same in another unit
    size_bytes       of the files; `memory_bytes` is what the manifest says that opening takes, `bits_per_weight`
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgekit.bench.records import Measurement, Record
from edgekit.metrics import Estimate

# What is asked for -> what may be there, and how many of the one are one of the other.
_UNITS = (("_s", "_ms", 1e-3), ("_ms", "_s", 1e3), ("_mb", "_bytes", 1e-6), ("_gb", "_bytes", 1e-9))


@dataclass(frozen=True)
class Reading:
    """One figure of one task on one row.

    Attributes:
        task: empty for what is known of the files.
        interval: whether `low` and `high` bound it; without one they are the value.
    """

    task: str
    value: float
    low: float
    high: float
    interval: bool = True

    def scaled(self, factor: float) -> Reading:
        """The same in another unit; a negative factor turns its bounds around."""
        value, *ends = (factor * number + 0.0 for number in (self.value, self.low, self.high))  # no -0
        low, high = sorted(ends)
        return Reading(self.task, value, low, high, self.interval)


def readings(record: Record) -> dict[str, list[Reading]]:
    """Every figure of a row by name, one entry a task."""
    found: dict[str, list[Reading]] = {}
    for measured in record.measurements:
        for name, reading in _measured(measured):
            found.setdefault(name, []).append(reading)
    known = {
        "size_bytes": record.bytes,
        "memory_bytes": record.memory_bytes,
        "bits_per_weight": record.bits_per_weight,
    }
    found |= {name: [_exact("", float(value))] for name, value in known.items() if value is not None}
    for wanted, there, factor in _UNITS:
        for name in [name for name in found if name.endswith(there)]:
            other = name.removesuffix(there) + wanted
            # seconds come before milliseconds: `_s` is no unit where `_tokens_per_s` ends with it
            if other not in found and not name.endswith("_per_s"):
                found[other] = [reading.scaled(factor) for reading in found[name]]
    return found


def names(records: Sequence[Record]) -> list[str]:
    """Every name that any of these rows has a figure for, sorted."""
    return sorted({name for record in records for name in readings(record)})


def first(record: Record, name: str) -> Reading | None:
    """A row's first figure of this name."""
    return next(iter(readings(record).get(name, ())), None)


def _measured(measured: Measurement) -> Iterator[tuple[str, Reading]]:
    for name, figure in measured.metrics.items():
        yield name, _of(measured.task, figure)
        quantiles = measured.details.get(f"{name}_quantiles")
        for quantile, value in quantiles.items() if isinstance(quantiles, Mapping) else ():
            if isinstance(value, int | float) and f"{name}_{quantile}" not in measured.metrics:
                yield f"{name}_{quantile}", _exact(measured.task, float(value))
    if measured.paired:
        yield f"{measured.headline}_drop", _of(measured.task, measured.paired.difference).scaled(-100)


def _of(task: str, figure: Estimate) -> Reading:
    return Reading(task, figure.value, figure.low, figure.high)


def _exact(task: str, value: float) -> Reading:
    return Reading(task, value, value, value, interval=math.isnan(value))
