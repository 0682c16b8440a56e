"""Several runs: as one where they measured the same things, side by side where one is held against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.artifacts.files import sha256_json
from edgekit.bench.corrections import corrected
from edgekit.bench.kinds import of_machine
from edgekit.bench.records import Measurement, Record
from edgekit.bench.results import Results
from edgekit.errors import InputError
from edgekit.metrics import Estimate


def merge(runs: Sequence[Results]) -> Results:
    """The rows of all runs, those of one level on one machine as one; a measurement that two runs have counts once.

    What a machine did not measure of a level is taken from another where it does not depend on the machine: scores and
    distances are, times and memory are not. A note says so. Times of one machine that several runs measured were not
    interleaved: `Measurement.run` and a note say which are of which.

    Raises:
        InputError: a task of one name is of other data, another file, or other software on the same machine: their
            figures are not those of one table.
    """
    records = [_marked(record, number) for number, run in enumerate(runs, 1) for record in run.records]
    _check_tasks(records)
    merged: dict[str, Record] = {}
    for record in records:
        key = sha256_json([_identity(record), record.environment.fingerprint])
        merged[key] = _united(merged[key], record) if key in merged else record
    apart, told = _apart(list(merged.values()))
    shared, notes = _shared(apart)
    phases: dict[str, float] = {}
    for run in runs:
        for name, seconds in run.phases.items():
            phases[name] = phases.get(name, 0.0) + seconds
    said = dict.fromkeys(note for run in runs for note in run.notes)
    commands = dict.fromkeys(run.command for run in runs if run.command)
    return Results(corrected(shared), phases, (*said, *told, *notes), "; ".join(commands))


@dataclass(frozen=True)
class Earlier:
    """A run that another one is held against, and what people call it."""

    name: str
    results: Results


@dataclass(frozen=True)
class Change:
    """One figure in two runs.

    Attributes:
        disturbed: whether something else ran, or slowed the machine, in one of them.
    """

    model: str
    row: str
    task: str
    kind: str
    figure: str
    before: Estimate
    after: Estimate
    disturbed: bool = False

    @property
    def clear(self) -> bool:
        """Whether both have intervals, and these have nothing in common."""
        if not all(end.n > 1 and end.low < end.high for end in (self.before, self.after)):
            return False
        return self.after.low > self.before.high or self.after.high < self.before.low


def changes(before: Results, after: Results) -> tuple[list[Change], list[str]]:
    """Every figure that both have, in the later run's order, and why others are not compared.

    Rows are matched by model and name; of rows of several machines, one of the same machine is taken first.
    """
    found: list[Change] = []
    notes: dict[str, None] = {}
    for record in after.records:
        old = _partner(record, before.records)
        for new in record.measurements:
            was = old.of(new.task) if old else None
            if was is None:
                notes[f"{record.row}, {new.task}: only in the later run"] = None
            elif (was.task_sha256, was.dataset.get("sha256")) != (new.task_sha256, new.dataset.get("sha256")):
                notes[f"{new.task}: its file or its data is another one, so its figures are not compared"] = None
            else:
                found += _changes(record, was, new)
    return found, list(notes)


def _changes(record: Record, was: Measurement, new: Measurement) -> list[Change]:
    both = [name for name in new.metrics if name in was.metrics]
    disturbed = any(one.details.get("disturbed") for one in (was, new))
    return [
        Change(record.model, record.row, new.task, new.kind, name, was.metrics[name], new.metrics[name], disturbed)
        for name in both
    ]


def _partner(record: Record, others: Sequence[Record]) -> Record | None:
    alike = [other for other in others if (other.model, other.row) == (record.model, record.row)]
    here = record.environment.fingerprint
    return min(alike, key=lambda other: other.environment.fingerprint != here, default=None)


def _identity(record: Record) -> list[object]:
    """What a row computes, wherever it runs."""
    parts = dict(record.part_ids) if record.part_ids else None
    return [record.source_sha256, record.model, record.kind, record.row, parts, dict(record.tuned or {})]


def _check_tasks(records: Sequence[Record]) -> None:
    known: dict[str, tuple[str, str | None]] = {}
    for measured in (m for record in records for m in record.measurements):
        what = (measured.task_sha256, measured.dataset.get("sha256"))
        if known.setdefault(measured.task, what) != what:
            raise InputError(
                f"task {measured.task}: these runs have different files or data of it",
                remedy="merge runs of one task file and data set, or compare two: edgekit report NEW --against OLD",
            )


def _united(one: Record, other: Record) -> Record:
    """The measurements of both; of one that both have, the one that succeeded."""
    tasks = {measured.task: measured for measured in one.measurements}
    for measured in other.measurements:
        there = tasks.get(measured.task)
        if (there is not None and there.key != measured.key) or _software(one) != _software(other):
            raise InputError(
                f"{one.model}, {one.row}, {measured.task}: runs of different software on one machine",
                remedy="compare the two runs: edgekit report NEW --against OLD",
            )
        if there is None or there.error:
            tasks[measured.task] = measured
    return replace(one, measurements=tuple(tasks.values()))


def _software(record: Record) -> tuple[object, ...]:
    here = record.environment
    return here.code, here.metric_version, sorted(here.versions.items())


def _marked(record: Record, number: int) -> Record:
    """Times with the number of their run."""
    marked = (
        replace(m, run=f"{number}.{m.run}" if m.run else str(number)) if of_machine(m.kind) and not m.error else m
        for m in record.measurements
    )
    return replace(record, measurements=tuple(marked))


def _apart(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The marks of runs only where one machine's rows of a model have several, and what is to be said of them."""
    groups: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for record in records:
        for m in record.measurements:
            if m.run:
                groups.setdefault(_table(record, m), {}).setdefault(m.run, []).append(record.row)
    notes = []
    for (_, _, task), of in groups.items():
        if len(of) > 1:
            which = "; ".join(f"of run {run}: {', '.join(rows)}" for run, rows in of.items())
            notes.append(f"{task}: times of several runs were not interleaved and are not compared; {which}")
    settled = [
        replace(
            record,
            measurements=tuple(
                replace(m, run="") if m.run and len(groups[_table(record, m)]) == 1 else m for m in record.measurements
            ),
        )
        for record in records
    ]
    return settled, notes


def _table(record: Record, measured: Measurement) -> tuple[str, str, str]:
    return record.model, record.environment.fingerprint, measured.task


def _shared(records: list[Record]) -> tuple[list[Record], list[str]]:
    notes: dict[str, None] = {}
    filled = []
    for record in records:
        own = list(record.measurements)
        for other in records:
            # Scores hang on the software, too, and a record names one.
            if other is record or _identity(other) != _identity(record) or _software(other) != _software(record):
                continue
            for measured in other.measurements:
                if not measured.error and not of_machine(measured.kind) and all(m.task != measured.task for m in own):
                    own.append(measured)
                    where, here = (f"{r.environment.cpu}, {r.environment.cores} cores" for r in (other, record))
                    notes[f"{measured.task} of the rows of {here} was measured on {where}"] = None
        filled.append(replace(record, measurements=tuple(own)))
    return filled, list(notes)

