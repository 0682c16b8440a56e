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

_LARGEST = 1e12  # what an axis has room for
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
    if marks := _marks([(r, m.metrics[m.headline]) for r, m in measured], 0.01):
        yield Chart(charts.intervals(marks, title=title, unit="%", baseline=baseline))
    if paired := _marks([(r, m.paired.difference) for r, m in measured if m.paired], 0.01):
        title = f"{first.title}: difference to full precision on the same items, 95 % interval"
        yield Chart(charts.intervals(paired, title=title, unit="points", baseline=0.0))


def _distances(records: Sequence[Record]) -> Iterator[Chart]:
    """The distance from full precision against size, one chart a task, and all other such figures with intervals."""
    for task in own_tasks(records, timed=False):
        measured = [(r, m) for r in records if (m := r.of(task))]
        first = measured[0][1]
        kind = kind_of(records, task)
        for column in kind.columns if kind.needs_full_precision else ():
            found = [(r, e) for r, m in measured if (e := m.metrics.get(column.figure))]
            if column.figure.startswith(_DISTANCE):
                points = [
                    (r.row, r.kind, r.bits_per_weight, e.value)
                    for r, e in found
                    if r.kind == "variant" and r.bits_per_weight and _drawn(e.value) and _drawn(r.bits_per_weight)
                ]
                title = f"{first.title}: distance from full precision against size: less is better on both axes"
                if points:
                    yield Chart(charts.scatter(points, title=title, x_unit="bits per weight", y_unit=column.head))
            elif marks := _marks(found, column.unit):
                title = f"{first.title}: {column.head}, 95 % interval"
                yield Chart(charts.intervals(marks, title=title, unit="", digits=column.digits))


def _costs(records: Sequence[Record], task: str) -> Iterator[Chart]:
    """Times and memory: medians and ranges."""
    measured = [(r, m) for r in records if (m := r.of(task)) and not m.error]
    for column in kind_of(records, task).columns:
        found = [(r, e) for r, m in measured if (e := m.metrics.get(column.figure))]
        if marks := [mark for mark in _marks(found, column.unit) if mark.low >= 0]:
            title = f"{column.head}: median and range over rounds"
            yield Chart(charts.bars(marks, title=title, unit="", digits=column.digits))


def _marks(found: Sequence[tuple[Record, Estimate]], unit: float) -> list[Mark]:
    """Those figures that can be drawn, in units of `unit`; one whose interval cannot is a point."""
    marks = []
    for record, figure in found:
        value, low, high = (end / unit for end in (figure.value, figure.low, figure.high))
        if _drawn(value):
            ends = (low, high) if _drawn(low) and _drawn(high) else (value, value)
            marks.append(Mark(record.row, record.kind, value, *ends))
    return marks


def _drawn(value: float) -> bool:
    return math.isfinite(value) and abs(value) < _LARGEST
