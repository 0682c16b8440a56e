"""What a report says, apart from how it is written: rows, columns, explanations, warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit.bench.kinds import kinds
from edgekit.bench.kinds.base import FigureColumn
from edgekit.bench.records import Measurement, Record
from edgekit.bench.report.figures import NONE, number, percent, points
from edgekit.bench.results import Damage, Results, damage
from edgekit.metrics import Estimate

_ORDER = {"reference": 0, "variant": 1, "peer": 2, "control": 3}


@dataclass(frozen=True)
class Column:
    """One column of a table: its head, and a row's text."""

    head: str
    text: Callable[[Record], str]


def models(results: Results) -> dict[str, list[Record]]:
    """The records of each model: full precision, variants as the artifact lists them, controls."""
    grouped: dict[str, list[Record]] = {}
    for record in results.records:
        grouped.setdefault(record.model, []).append(record)
    return {model: sorted(rows, key=lambda row: _ORDER[row.kind]) for model, rows in grouped.items()}


def columns(records: Sequence[Record]) -> list[Column]:
    """The main table's columns, those that no row has left out: first accuracy, then each kind's, times last."""
    headline = headline_task(records)
    every = [
        Column("level", lambda r: r.row),
        Column("size MB", lambda r: number(r.bytes, 1e6, 1)),
        Column("bits/weight", lambda r: number(r.bits_per_weight, 1, 2)),
        Column("accuracy %", lambda r: percent(_accuracy(r, headline))),
        Column("to full precision, points", lambda r: points(_paired(r, headline))),
    ]
    for kind in sorted(dict.fromkeys(kinds().values()), key=lambda kind: kind.in_rounds):
        every += [Column(column.head, partial(_figure, column)) for column in kind.columns]
    return [column for column in every if any(column.text(record) != NONE for record in records)]


def accuracy_columns(records: Sequence[Record]) -> list[Column]:
    """One column for each accuracy task, where there are several."""
    names = accuracy_tasks(records)
    tasks = [Column(name, partial(_with_difference, name)) for name in names]
    return [Column("level", lambda r: r.row), *tasks] if len(names) > 1 else []


def accuracy_tasks(records: Sequence[Record]) -> list[str]:
    """The accuracy tasks of these rows, in order."""
    return list(dict.fromkeys(m.task for record in records for m in record.accuracies))


def headline_task(records: Sequence[Record]) -> str | None:
    """The accuracy task that stands in the main table: the first."""
    return next(iter(accuracy_tasks(records)), None)


def damage_warning(results: Results) -> str | None:
    """What must be said first: the table cannot show damage, or something was not measured."""
    controls = damage(results.records)
    lines = [
        f"{c.model}, {c.row}: no task shows the damage, so no figure here can show any" for c in controls if c.blind
    ]
    lines += [
        f"{c.model}, {c.row}: not run on {', '.join(c.not_run)}, so whether those could show damage is not known"
        for c in controls
        if c.not_run
    ]
    lines += [f"not measured: {error}" for error in results.errors]
    measured = [m for record in results.records for m in record.measurements]
    lines += dict.fromkeys(f"{m.task}: {m.dataset['title']}" for m in measured if m.dataset.get("published") == "no")
    lines += dict.fromkeys(_unread(m) for m in measured if m.failed)
    return "\n".join(f"**WARNING: {line}**" for line in lines) or None


def explanations(records: Sequence[Record]) -> list[str]:
    """What the figures of one model's table rest on."""
    first: dict[str, Measurement] = {}
    for record in records:
        for measured in record.measurements:
            if not measured.error:
                first.setdefault(measured.task, measured)
    lines = [kinds()[m.kind].explain(m, [n for r in records if (n := r.of(m.task))]) for m in first.values()]
    lines += [f"{r.row}: {'; '.join(r.tuned.values())}." for r in records if r.tuned]
    if any(record.tuned for record in records):
        lines.append("All other rows of levels: the runtimes and options that were proven.")
    controls = damage(records)
    return lines + [_damage_line(control) for control in controls if control.shown or control.missed or control.not_run]


def closing(results: Results) -> list[str]:
    """Data sources, machine, versions, time of each phase."""
    lines = list(results.notes)
    sources = {m.dataset["name"]: m.dataset for record in results.records for m in record.measurements}
    lines += [f"Data {s['title']}: {s['citation']}; licence {s['license']}; {s['note']}." for s in sources.values()]
    if results.records:
        here = results.records[0].environment
        versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
        commit = f", commit {here.commit[:12]}" if here.commit else ""
        lines.append(f"Machine: {here.cpu}, {here.cores} cores ({', '.join(here.features)}). {versions}{commit}.")
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results.phases.items() if seconds >= 0.5)
    return [*lines, f"Time: {phases}, together {sum(results.phases.values()):.0f} s."]


def _figure(column: FigureColumn, record: Record) -> str:
    return column.text(record.metric(column.figure))


def _accuracy(record: Record, task: str | None) -> Estimate | None:
    measured = record.of(task) if task else None
    return measured.metrics.get("accuracy") if measured else None


def _paired(record: Record, task: str | None) -> Estimate | None:
    measured = record.of(task) if task else None
    return measured.paired.difference if measured and measured.paired else None


def _with_difference(task: str, record: Record) -> str:
    measured = record.of(task)
    if measured is None or "accuracy" not in measured.metrics:
        return NONE
    figure = percent(measured.metrics["accuracy"])
    return f"{figure} ({points(measured.paired.difference)})" if measured.paired else figure


def _damage_line(control: Damage) -> str:
    parts = [f"shows in {', '.join(control.shown)}"] if control.shown else []
    parts += ["shows in NO task"] if control.blind else []
    if control.missed:
        parts.append(f"not in {', '.join(control.missed)}, which could not show such damage in any row")
    parts += [f"not run on {task}: {reason}" for task, reason in control.not_run.items()]
    return f"{control.row}: {'; '.join(parts)}."


def _unread(measured: Measurement) -> str:
    more = f", and {len(measured.failed) - 1} more" if len(measured.failed) > 1 else ""
    total = measured.n + len(measured.failed)
    return f"{measured.task}: {len(measured.failed)} of {total} failed: {measured.failed[0]}{more}"
