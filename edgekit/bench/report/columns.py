"""The columns of figures: what each kind of task says of its own, and how all other figures are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit.bench.kinds import Task, kinds
from edgekit.bench.kinds.base import FigureColumn
from edgekit.bench.records import Measurement, Record
from edgekit.bench.report.figures import NONE, bare, number, percent, points
from edgekit.bench.results import scored_tasks
from edgekit.metrics import Estimate

DISTURBED = " \N{DAGGER}"
_DISTURBED = "\N{DAGGER} disturbed: other work ran, or the machine was slowed, while some were measured: see details"


@dataclass(frozen=True)
class Column:
    """One column of a table: its head, and a row's text."""

    head: str
    text: Callable[[Record], str]


def main_columns(records: Sequence[Record]) -> list[Column]:
    """First the first task with scores, then each kind's figures, times last; each column is of one task."""
    return [*quality_columns(records), *cost_columns(records)]


def quality_columns(records: Sequence[Record]) -> list[Column]:
    """Size, the first task with scores, and the figures of every kind that measures no times."""
    every = [
        Column("size MB", lambda r: number(r.bytes, 1e6, 1)),
        Column("bits/weight", lambda r: number(r.bits_per_weight, 1, 2)),
    ]
    scored = next(iter(scored_tasks(records)), None)
    if scored:
        mine = next(m for record in records for m in record.measurements if m.task == scored)
        every.append(Column(head_of(mine.kind, mine.headline, scored=True), lambda r: score(r.of(scored))))
        every.append(Column("to full precision, points", lambda r: difference(r.of(scored))))
    return every + [c for task in own_tasks(records, timed=False) for c in own_columns(records, task, scored)]


def cost_columns(records: Sequence[Record]) -> list[Column]:
    """Times and memory."""
    return [column for task in own_tasks(records, timed=True) for column in own_columns(records, task)]


def times_note(heads: Sequence[str], records: Sequence[Record]) -> str:
    """What must be known before times are compared; empty for nothing."""
    runs = {m.run for record in records for m in record.measurements if m.run}
    notes = [_DISTURBED] if any(head.endswith(DISTURBED) for head in heads) else []
    notes += ["times are of several runs, not interleaved: see the notes at the end"] if runs else []
    return "; ".join(notes) + ("." if notes else "")


def own_tasks(records: Sequence[Record], timed: bool) -> list[str]:
    """The tasks whose kinds have columns, of times and memory or of all else, in the kinds' order."""
    known = kinds()
    measured = {m.task: m.kind for record in records for m in record.measurements if m.kind in known}
    names = [name for name in measured if known[measured[name]].in_rounds == timed]
    return sorted(names, key=lambda name: list(known).index(measured[name]))


def own_columns(records: Sequence[Record], task: str, scored: str | None = None) -> list[Column]:
    """The columns that a task's kind has; where several tasks have the same figure, its name stands with the head.

    Args:
        scored: the task whose headline has a column already.
    """
    measured = [m for record in records for m in record.measurements]
    kind, columns = kind_of(records, task), []
    for column in kind.columns:
        if task == scored and column.figure == kind.headline:
            continue
        alike = {m.task for m in measured if column.figure in m.metrics}
        head = f"{column.head} ({task})" if len(alike) > 1 else column.head
        doubtful = not column.figure.endswith("_bytes") and any(
            m.task == task and m.details.get("disturbed") for m in measured
        )
        head += DISTURBED if doubtful else ""
        columns.append(Column(head, partial(_own, task, column)))
    return columns


def kind_of(records: Sequence[Record], task: str) -> type[Task]:
    """The kind of a task that `own_tasks` names."""
    return next(kinds()[m.kind] for r in records for m in r.measurements if m.task == task and m.kind in kinds())


def _own(task: str, column: FigureColumn, record: Record) -> str:
    return column.text(_metric(record.of(task), column.figure))


def score(measured: Measurement | None) -> str:
    """A task's headline, a score."""
    if measured is None:
        return NONE
    return text_of(measured.kind, measured.headline, _metric(measured, measured.headline), scored=True)


def difference(measured: Measurement | None) -> str:
    """How far a task's headline is from full precision's."""
    return points(measured.paired.difference) if measured and measured.paired else NONE


def head_of(kind: str, figure: str, scored: bool) -> str:
    """What stands above a figure of a task in its own table."""
    column, rest = nearest(kind, figure)
    if column:
        return " ".join([column.head, *rest.split("_")]).strip()
    words = figure.removesuffix("_bytes").replace("_", " ")
    if figure.endswith("_bytes"):
        return f"{words} MB"
    return f"{words} %" if scored and _is_share(figure) else words


def text_of(kind: str, figure: str, estimate: Estimate | None, scored: bool) -> str:
    """A figure as its kind writes it, or the one that its name begins with; others with their intervals."""
    column, _ = nearest(kind, figure)
    if column or estimate is None:
        return column.text(estimate) if column else NONE
    if scored and _is_share(figure):
        return percent(estimate)
    if figure.endswith("_bytes"):
        return number(estimate.value, 1e6, 1)
    return bare(estimate.value) if _is_point(estimate) else f"{bare(estimate.value)} {_interval(estimate)}"


def nearest(kind: str, figure: str) -> tuple[FigureColumn | None, str]:
    """The kind's column for a figure, or for what its name begins with, and the rest of the name."""
    own = kinds()[kind].columns if kind in kinds() else ()
    for column in sorted(own, key=lambda column: -len(column.figure)):
        if figure == column.figure or figure.startswith(f"{column.figure}_"):
            return column, figure[len(column.figure) + 1 :]
    return None, ""


def _is_share(figure: str) -> bool:
    return not figure.endswith(("_ms", "_s", "_bytes", "_count"))


def _is_point(figure: Estimate) -> bool:
    return not math.isfinite(figure.low) or figure.low == figure.high


def _interval(figure: Estimate) -> str:
    return f"[{bare(figure.low)}, {bare(figure.high)}]"


def _metric(measured: Measurement | None, name: str) -> Estimate | None:
    return measured.metrics.get(name) if measured else None

