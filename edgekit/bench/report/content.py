"""What a report says, however it is written: first the decision, then the figures, then the details."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from edgekit.bench.decision import Question, decide
from edgekit.bench.kinds import kinds
from edgekit.bench.records import Measurement, Record
from edgekit.bench.report import details, pictures, publications
from edgekit.bench.report.against import against
from edgekit.bench.report.blocks import WIDE, Block, Bullets, Caution, Paragraph, Row, Section, Table, filled, turned
from edgekit.bench.report.choice import choice
from edgekit.bench.report.columns import (
    Column,
    cost_columns,
    difference,
    main_columns,
    quality_columns,
    score,
    times_note,
)
from edgekit.bench.report.figures import NONE
from edgekit.bench.report.proofs import comparison_table
from edgekit.bench.results import Damage, Results, damage, scored_tasks
from edgekit.bench.runs import Earlier

_ORDER = ("reference", "variant", "peer", "control")


def report(results: Results, question: Question | None = None, earlier: Earlier | None = None) -> list[Section]:
    """The whole report.

    Args:
        question: what a level must keep, and where it must run.
        earlier: a run to hold this one against.
    """
    sections = [Section("", tuple(Caution(line) for line in warnings(results)))]
    decisions = decide(results.records, question)
    if decisions:
        several = len({record.environment.fingerprint for record in results.records}) > 1
        blocks = [block for one in decisions for block in choice(one, results.records, name_machine=several)]
        sections.append(Section("Decision", tuple(blocks)))
    if earlier:
        sections.append(against(earlier, results))
    grouped = models(results)
    for name, records in grouped.items():
        sections.append(Section(name, tuple(_figures(records))))
    for name, records in grouped.items():
        blocks = [*details.tables(records), Bullets(tuple(explanations(records)))]
        sections.append(Section(f"Details: {name}", tuple(blocks)))
    sections.append(Section("Sources, machine, time", (Bullets(tuple(closing(results))),)))
    return [section for section in sections if section.blocks]


def models(results: Results) -> dict[str, list[Record]]:
    """The records of each model: full precision, variants as the artifact lists them, controls."""
    grouped: dict[str, list[Record]] = {}
    for record in results.records:
        grouped.setdefault(record.model, []).append(record)
    return {model: sorted(rows, key=lambda row: _ORDER.index(row.kind)) for model, rows in grouped.items()}


def warnings(results: Results) -> list[str]:
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
    return lines


def explanations(records: Sequence[Record]) -> list[str]:
    """What the figures of one model's table rest on."""
    first: dict[str, Measurement] = {}
    for record in records:
        for measured in record.measurements:
            if not measured.error:
                first.setdefault(measured.task, measured)
    lines = [_explained(m, [n for r in records if (n := r.of(m.task))]) for m in first.values()]
    lines += [f"{r.row}: {'; '.join(r.tuned.values())}." for r in records if r.tuned]
    if any(record.tuned for record in records):
        lines.append("All other rows of levels: the runtimes and options that were proven.")
    controls = damage(records)
    return lines + [_damage_line(control) for control in controls if control.shown or control.missed or control.not_run]


def closing(results: Results) -> list[str]:
    """Data sources, machines, versions, time of each phase, and the command."""
    lines = list(results.notes)
    sources = {m.dataset["name"]: m.dataset for record in results.records for m in record.measurements}
    lines += [f"Data {s['title']}: {s['citation']}; licence {s['license']}; {s['note']}." for s in sources.values()]
    for here in {r.environment.fingerprint: r.environment for r in results.records}.values():
        versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
        commit = f", commit {here.commit[:12]}" if here.commit else ""
        lines.append(f"Machine: {here.cpu}, {here.cores} cores ({', '.join(here.features)}). {versions}{commit}.")
    lines.append(_time(results))
    return [*lines, *([f"Measured by: {results.command}"] if results.command else ())]


def _time(results: Results) -> str:
    """How long the run took; of one that found figures in its folder, how long those took."""
    spent = sum(m.seconds for record in results.records for m in record.measurements)
    together = sum(results.phases.values())
    phases = [f"{name} {seconds:.0f} s" for name, seconds in results.phases.items() if seconds >= 0.5]
    said = ", ".join([*phases, f"together {together:.0f} s"])
    if together < 0.1 * spent:  # a tenth: cells of a cluster run beside each other
        return f"Time: {said}, for figures were already in the folder; to measure all takes {spent:.0f} s."
    return f"Time: {said}."


def _figures(records: Sequence[Record]) -> Iterator[Block]:
    """One model's tables and charts."""
    if records[0].stand_in:
        yield Paragraph(f"Stand-in: {records[0].stand_in}")
    labels = _labels(records)
    main = _table([*labels, *main_columns(records)], records, keep=len(labels))
    if main and len(main.heads) <= WIDE:
        yield main
    elif main:
        for columns in (quality_columns(records), cost_columns(records)):
            yield from turned(_table([*labels, *columns], records, keep=len(labels)))
    scored = scored_tasks(records)
    elsewhere = publications.scores(records)
    if len(scored) > 1:
        shown = [*labels, *(Column(task, partial(_with_difference, task)) for task in scored)]
        note = "Scores, in brackets the difference to full precision on the same items, in points:"
        if table := _table(shown, records, note, keep=len(labels)):
            yield table
    if table := publications.table(elsewhere, records):
        yield table
    if proofs := comparison_table(records, scored):
        yield proofs
    yield from pictures.charts_of(records, scored)


def _labels(records: Sequence[Record]) -> list[Column]:
    """A row's name, and its machine's where there are several."""
    machines = {record.environment.fingerprint for record in records}
    named = Column("machine", lambda r: f"{r.environment.cpu}, {r.environment.cores} cores")
    return [Column("level", lambda r: r.row), *([named] if len(machines) > 1 else [])]


def _table(columns: Sequence[Column], records: Sequence[Record], note: str = "", keep: int = 1) -> Table | None:
    rows = (Row(tuple(column.text(record) for column in columns), record.kind) for record in records)
    heads = tuple(column.head for column in columns)
    return filled(Table(heads, tuple(rows), note or times_note(heads, records)), keep=keep)


def _with_difference(task: str, record: Record) -> str:
    measured = record.of(task)
    figure, apart = score(measured), difference(measured)
    return figure if apart == NONE else f"{figure} ({apart})"


def _explained(first: Measurement, rows: Sequence[Measurement]) -> str:
    kind, plainly = kinds().get(first.kind), f"{first.task}: {first.title}; n = {first.counted}"
    try:
        return kind.explain(first, rows) if kind else f"{plainly}."
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:  # no detail, or none as its kind writes it today
        return f"{plainly}; measured by a version of edgekit that recorded other details ({wrong})."


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
