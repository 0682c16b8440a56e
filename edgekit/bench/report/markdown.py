"""The report as Markdown, which reads as text too: tables are padded.

Names and messages of others are text: none begins a tag, a link or a line of its own, and none controls a terminal.
"""

from __future__ import annotations

import re

from edgekit.bench.decision import Question
from edgekit.bench.report.blocks import Block, Bullets, Caution, Chart, Paragraph, Section, Table
from edgekit.bench.report.content import report
from edgekit.bench.results import Results
from edgekit.bench.runs import Earlier
from edgekit.terminal import printable

_BEGINS = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])\(")  # a tag or a comment, a link's address


def markdown(
    results: Results, question: Question | None = None, earlier: Earlier | None = None, *, level: int = 2
) -> str:
    """The whole report.

    Args:
        question: what a level must keep, and where it must run.
        earlier: a run to hold this one against.
        level: of its headings.
    """
    return "\n\n".join(text for section in report(results, question, earlier) for text in _section(section, level))


def _section(section: Section, level: int) -> list[str]:
    heading = [f"{'#' * level} {_text(section.title)}"] if section.title else []
    if all(isinstance(block, Caution) for block in section.blocks):
        return [*heading, "\n".join(_block(block) for block in section.blocks)]
    return [*heading, *(text for block in section.blocks if (text := _block(block)))]


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return f"{_text(block.note)}\n\n{table(block)}" if block.note else table(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text(line)}" for line in block.lines)
    if isinstance(block, Caution):
        return f"**WARNING: {_text(block.text)}**"
    if isinstance(block, Chart):
        return ""
    assert isinstance(block, Paragraph)
    text = _text(block.text)
    return f"**{_text(block.strong)}** {text}" if block.strong else text


def table(shown: Table) -> str:
    """A Markdown table, padded so that it reads as text too."""
    lines = (shown.heads, *(row.cells for row in shown.rows))
    cells = [[_text(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown.heads))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def _text(text: str) -> str:
    return _BEGINS.sub(r"\\\g<0>", printable(text))
