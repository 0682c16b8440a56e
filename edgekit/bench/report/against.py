"""The section that holds one run against an earlier one."""

from __future__ import annotations

from edgekit.bench.report.blocks import Block, Bullets, Paragraph, Row, Section, Table
from edgekit.bench.report.columns import head_of, text_of
from edgekit.bench.report.figures import NONE
from edgekit.bench.results import Results, scored_tasks
from edgekit.bench.runs import Earlier, changes

_NOTE = (
    "Every figure that both runs have; clear: both have an interval, and these have nothing in common; disturbed: "
    "other work ran in one of the runs, so that a time says little."
)


def against(earlier: Earlier, after: Results) -> Section:
    """Each figure before and after."""
    found, notes = changes(earlier.results, after)
    scored = set(scored_tasks(after.records))
    rows = tuple(
        Row(
            (
                change.row,
                change.task,
                head_of(change.kind, change.figure, change.task in scored),
                text_of(change.kind, change.figure, change.before, change.task in scored),
                text_of(change.kind, change.figure, change.after, change.task in scored),
                ("clear" if change.clear else NONE) + (", disturbed" if change.disturbed else ""),
            )
        )
        for change in found
    )
    heads = ("level", "task", "figure", "before", "after", "change")
    clear = sum(change.clear for change in found)
    verb = "has" if clear == 1 else "have"
    blocks: list[Block] = [Paragraph(f"{clear} of {len(found)} figures {verb} clearly changed.")]
    blocks += [Table(heads, rows, _NOTE)] if rows else []
    blocks += [Bullets(tuple(notes))] if notes else []
    return Section(f"Against {earlier.name}", tuple(blocks))
