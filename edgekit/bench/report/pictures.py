"""The charts of one model, chosen by what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgekit.bench.records import Record
from edgekit.bench.report import charts
from edgekit.bench.report.blocks import Chart
from edgekit.bench.report.charts import Mark
from edgekit.bench.report.columns import kind_of, own_tasks
from edgekit.metrics import Estimate

_DISTANCE = "kl"  # how the names of a decoder's divergences begin, which are drawn against size


def charts_of(records: Sequence[Record], scored: Sequence[str]) -> Iterator[Chart]:
    """Scores, distances from full precision, costs."""
    for task in scored:
        yield from _scores(records, task)
    yield from _distances(records)
    for task in own_tasks(records, timed=True):
        yield from _costs(records, task)


def _scores(records: Sequence[Record], task: str) -> Iterator[Chart]:
    """A task's scores with intervals, its baseline dashed, and the paired differences, zero dashed."""
    measured = [(r, m) for r in records if (m := r.of(task)) and m.headline in m.metrics]
    if not measured:
        return
    first = measured[0][1]
    baseline, dashed = None, ""
    if chance := first.details.get("majority_baseline"):
        baseline, dashed = 100 * chance["accuracy"], "; dashed: always the most frequent answer"
    headline = first.headline.replace("_", " ")
    title = f"{first.title}: {headline} with 95 % interval, n = {first.counted}{dashed}"
    marks = [_mark(r, m.metrics[m.headline], 0.01) for r, m in measured]
    yield Chart(charts.intervals(marks, title=title, unit="%", baseline=baseline))
    paired = [_mark(r, m.paired.difference, 0.01) for r, m in measured if m.paired]
    if paired:
        title = f"{first.title}: difference to full precision on the same items, 95 % interval"
        yield Chart(charts.intervals(paired, title=title, unit="points", baseline=0.0))


def _distances(records: Sequence[Record]) -> Iterator[Chart]:
    """The distance from full precision against size, one chart a task, and all other such figures with intervals."""
    for task in own_tasks(records, timed=False):
        measured = [(r, m) for r in records if (m := r.of(task))]
        first = measured[0][1]
        kind = kind_of(records, task)
        for column in kind.columns if kind.needs_full_precision else ():
            found = [(r, e) for r, m in measured if (e := m.metrics.get(column.figure)) and math.isfinite(e.value)]
            if column.figure.startswith(_DISTANCE):
                points = [
                    (r.row, r.kind, r.bits_per_weight, e.value)
                    for r, e in found
                    if r.kind == "variant" and r.bits_per_weight
                ]
                title = f"{first.title}: distance from full precision against size: less is better on both axes"
                if points:
                    yield Chart(charts.scatter(points, title=title, x_unit="bits per weight", y_unit=column.head))
            elif found:
                title = f"{first.title}: {column.head}, 95 % interval"
                marks = [_mark(r, estimate) for r, estimate in found]
                yield Chart(charts.intervals(marks, title=title, unit="", digits=5))


def _costs(records: Sequence[Record], task: str) -> Iterator[Chart]:
    """Times and memory: medians and ranges."""
    measured = [(r, m) for r in records if (m := r.of(task)) and not m.error]
    for column in kind_of(records, task).columns:
        unit = 1e6 if column.figure.endswith("_bytes") else 1.0
        found = [(r, e) for r, m in measured if (e := m.metrics.get(column.figure)) and math.isfinite(e.value)]
        if found:
            marks = [_mark(r, estimate, unit) for r, estimate in found]
            yield Chart(charts.bars(marks, title=f"{column.head}: median and range over rounds", unit=""))


def _mark(record: Record, figure: Estimate, unit: float = 1.0) -> Mark:
    value, low, high = figure.value / unit, figure.low / unit, figure.high / unit
    return Mark(record.row, record.kind, value, *((low, high) if math.isfinite(low) else (value, value)))
