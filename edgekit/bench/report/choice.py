"""The report's beginning: which level to take, why, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.bench.decision import Candidate, Decision
from edgekit.bench.decision.choose import Quality
from edgekit.bench.records import Record
from edgekit.bench.report.blocks import Block, Paragraph, Row, Table, filled, transposed
from edgekit.bench.report.columns import main_columns, times_note
from edgekit.bench.report.figures import NONE

_QUALITY = {
    Quality.EQUAL: "equal, proven",
    Quality.UNSEEN: "no drop seen",
    Quality.LESS: "drop proven",
    Quality.UNKNOWN: NONE,
}
_FITS = {True: "yes", False: "no", None: "not known"}


def choice(made: Decision, records: Sequence[Record], *, name_machine: bool) -> Iterator[Block]:
    """One model's decision on one machine."""
    where = f" on {made.machine}" if name_machine else ""
    what = f"take {made.chosen.record.row}" if made.chosen else "no level can be named"
    reasons = [f"{reason[0].upper()}{reason[1:]}." for reason in made.reasons]
    yield Paragraph(" ".join(reasons), strong=f"{made.model}{where}: {what}.")
    if made.chosen and (costs := _costs(made.chosen.record, records)):
        yield costs
    if table := _levels(made):
        yield table


def _costs(chosen: Record, records: Sequence[Record]) -> Table | None:
    """The chosen level's figures beside full precision's."""
    where = (chosen.model, chosen.environment.fingerprint)
    there = [r for r in records if (r.model, r.environment.fingerprint) == where]
    shown = [*(r for r in there if r.kind == "reference"), chosen]
    columns = main_columns(there)
    rows = (Row((r.row, *(column.text(r) for column in columns)), r.kind) for r in shown)
    heads = ("what it costs", *(column.head for column in columns))
    table = filled(Table(heads, tuple(rows), times_note(heads, shown)))
    return table and transposed(table)


def _levels(made: Decision) -> Table | None:
    """What spoke for and against each level."""
    rows = (Row((c.record.row, *_spoken(made, c)), "variant") for c in made.candidates)
    note = f"Pareto front over {', '.join(made.axes)}: no other level is as good in everything and better in something."
    heads = ("level", "choice", "scores", "on the front", "gates", "fits", "against it")
    return filled(Table(heads, tuple(rows), note))


def _spoken(made: Decision, candidate: Candidate) -> tuple[str, ...]:
    return (
        "this one" if candidate is made.chosen else NONE,
        _QUALITY[candidate.quality],
        "yes" if candidate.on_front else "no",
        _gates(candidate),
        _FITS[candidate.fit.fits] if candidate.fit else NONE,
        candidate.against or NONE,
    )


def _gates(candidate: Candidate) -> str:
    if not candidate.verdicts:
        return NONE
    kept = sum(verdict.passed for verdict in candidate.verdicts)
    return "all kept" if kept == len(candidate.verdicts) else f"{kept} of {len(candidate.verdicts)} kept"

