"""The report as Markdown: one table a model, what each figure rests on, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bench.records import Record
from edgekit.bench.report.content import (
    Column,
    accuracy_columns,
    closing,
    columns,
    damage_warning,
    explanations,
    models,
)
from edgekit.bench.results import Results


def markdown(results: Results) -> str:
    """The whole report."""
    blocks = [warning for warning in (damage_warning(results),) if warning]
    for model, records in models(results).items():
        blocks.append(f"## {model}")
        if records[0].stand_in:
            blocks.append(f"Stand-in: {records[0].stand_in}")
        blocks.append(_table(columns(records), records))
        if several := accuracy_columns(records):
            blocks += [
                "Accuracy %, in brackets the difference to full precision on the same items:",
                _table(several, records),
            ]
        blocks.append("\n".join(f"- {line}" for line in explanations(records)))
    blocks.append("\n".join(f"- {line}" for line in closing(results)))
    return "\n\n".join(blocks)


def _table(shown: Sequence[Column], records: Sequence[Record]) -> str:
    """A Markdown table, padded so that it reads as text too."""
    cells = [[column.head for column in shown]]
    cells += [[column.text(record).replace("|", "\\|") for column in shown] for record in records]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
