"""Results: all records of a run, and whether they can be trusted to show damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.bench.records import Record


@dataclass(frozen=True)
class Damage:
    """Whether one control row shows the damage that was done to it.

    Attributes:
        shown: tasks whose paired drop has an interval below zero.
        missed: tasks whose interval does not exclude zero: they could not show such damage in any row.
    """

    model: str
    row: str
    shown: tuple[str, ...]
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What `bench` measured.

    Attributes:
        phases: seconds of each phase.
        notes: what a reader must know about this run, one sentence each.
    """

    records: tuple[Record, ...]
    phases: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """Everything that could not be measured, and why."""
        failed = [(r, m) for r in self.records for m in r.measurements if m.error]
        return tuple(f"{r.model}, {r.row}, {m.task}: {m.error}" for r, m in failed)

    @property
    def shows_damage(self) -> bool:
        """Whether every control row shows damage; True where none was asked for."""
        return controls_show_damage(self.records)

    def after(self, earlier: Mapping[str, float]) -> Results:
        """The same results with the seconds of phases that came before."""
        return replace(self, phases={**earlier, **self.phases})


def damage(records: Sequence[Record]) -> list[Damage]:
    """What each control row shows, over its accuracy tasks."""
    controls = []
    for record in records:
        if record.control:
            shown = tuple(m.task for m in record.accuracies if m.paired and m.paired.high < 0)
            missed = tuple(m.task for m in record.accuracies if m.error is None and m.task not in shown)
            controls.append(Damage(record.model, record.row, shown, missed))
    return controls


def controls_show_damage(records: Sequence[Record]) -> bool:
    """Whether every control row with an accuracy task has a paired drop whose interval excludes zero.

    A table whose controls look like the full-precision model cannot tell a good level from a bad one.
    """
    return all(control.shown for control in damage(records) if control.shown or control.missed)
