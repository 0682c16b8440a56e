"""Results: all records of a run, and whether they can be trusted to show damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.bench.records import Measurement, Record


@dataclass(frozen=True)
class Damage:
    """Whether one control row shows the damage that was done to it.

    Attributes:
        shown: tasks whose paired drop has an interval below zero.
        missed: tasks whose interval does not exclude zero: they could not show such damage in any row.
        not_run: task -> why it has no drop to look at: it or full precision was not measured. It says nothing.
    """

    model: str
    row: str
    shown: tuple[str, ...]
    missed: tuple[str, ...]
    not_run: Mapping[str, str]

    @property
    def blind(self) -> bool:
        """Whether it was looked for and no task shows it."""
        return bool(self.missed) and not self.shown


@dataclass(frozen=True)
class Results:
    """What `bench` measured.

    Attributes:
        phases: seconds of each phase.
        notes: what a reader must know about this run, one sentence each.
        command: what was typed to measure it; empty where no command did.
    """

    records: tuple[Record, ...]
    phases: Mapping[str, float]
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def errors(self) -> tuple[str, ...]:
        """Everything that could not be measured, and why."""
        failed = [(r, m) for r in self.records for m in r.measurements if m.error]
        return tuple(f"{r.model}, {r.row}, {m.task}: {m.error}" for r, m in failed)

    @property
    def shows_damage(self) -> bool | None:
        """Whether every control row shows damage; None where none was run, or not every one."""
        controls = damage(self.records)
        if any(control.blind for control in controls):
            return False
        return True if controls and all(control.shown and not control.not_run for control in controls) else None

    def after(self, earlier: Mapping[str, float]) -> Results:
        """The same results with the seconds of phases that came before."""
        return replace(self, phases={**earlier, **self.phases})


def damage(records: Sequence[Record]) -> list[Damage]:
    """What each control row shows, over the tasks whose items have a score each."""
    scored = set(scored_tasks(records))
    return [_damage(r, [m for m in r.measurements if m.task in scored]) for r in records if r.control]


def scored_tasks(records: Sequence[Record]) -> list[str]:
    """The tasks whose items have a score each, so that rows can be compared item by item; in order."""
    measured = [m for record in records for m in record.measurements]
    return list(dict.fromkeys(m.task for m in measured if m.paired or m.headline == "accuracy"))


def _damage(record: Record, measured: Sequence[Measurement]) -> Damage:
    paired = {m.task: m.paired.difference for m in measured if m.paired and not m.error}
    return Damage(
        record.model,
        record.row,
        shown=tuple(task for task, drop in paired.items() if drop.high < 0),
        missed=tuple(task for task, drop in paired.items() if not drop.high < 0),
        not_run={m.task: m.error or "full precision was not measured" for m in measured if m.task not in paired},
    )


def controls_show_damage(records: Sequence[Record]) -> bool:
    """Whether no control row that was run is blind: each has a task with a paired drop whose interval excludes zero.

    A table whose controls look like the full-precision model cannot tell a good level from a bad one.
    """
    return not any(control.blind for control in damage(records))
