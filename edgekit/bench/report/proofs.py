"""What the comparisons with full precision prove, level by level and task by task."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bench.records import Record
from edgekit.bench.report.blocks import Row, Table, filled
from edgekit.bench.report.figures import NONE, points
from edgekit.metrics import Comparison

_NOTE = (
    "Compared with full precision on the same items. p: of no difference at all, two-sided; corrected: for the levels "
    "that were compared with one full-precision model; equal: whether the difference is proven to lie within the "
    "margin, by two one-sided tests at 5 %; items needed: to see a drop of the margin in 4 of 5 runs, where these are "
    "too few."
)
_HEADS = ("level", "task", "points", "won / lost", "p", "corrected p", "margin, points", "equal", "items needed")


def comparison_table(records: Sequence[Record], scored: Sequence[str]) -> Table | None:
    """A line for each level or control and each task whose items have scores; None where nothing was compared."""
    rows = [
        Row((record.row, task, *_cells(measured.paired)), record.kind)
        for task in scored
        for record in records
        if (measured := record.of(task)) and measured.paired
    ]
    return filled(Table(_HEADS, tuple(rows), _NOTE), keep=2)


def _cells(found: Comparison) -> tuple[str, ...]:
    return (
        points(found.difference),
        NONE if found.gained is None else f"{found.gained} / {found.lost}",
        probability(found.p),
        probability(found.adjusted_p),
        NONE if found.margin is None else f"{100 * found.margin:g}",
        NONE if found.within is None else "proven" if found.within else "not proven",
        NONE if found.items_needed is None else f"{found.items_needed:,}",
    )


def probability(p: float | None) -> str:
    """A p value to two significant digits, which is not told apart from zero below a thousandth."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"
