"""What a report is made of, however it is written: sections of paragraphs, tables, lists and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.bench.report.figures import NONE

WIDE = 12  # columns of a table that a page has room for


@dataclass(frozen=True)
class Paragraph:
    """A text; a `strong` one begins with what must be read first."""

    text: str
    strong: str = ""


@dataclass(frozen=True)
class Caution:
    """What must be said before all else."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """An SVG figure that escapes its texts itself; only a page shows it."""

    svg: str


@dataclass(frozen=True)
class Row:
    """A line of a table; `kind` is a record's, or `published`."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Heads and rows of one length, with a line above."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


Block = Paragraph | Caution | Bullets | Chart | Table


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; one without a title stands before all headings."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 2


def filled(table: Table, *, keep: int = 1) -> Table | None:
    """A table without the columns, beyond the first `keep`, that no row fills; None where nothing is left."""
    shown = [
        i for i in range(len(table.heads)) if i < keep or any(row.cells[i] not in (NONE, "") for row in table.rows)
    ]
    if len(shown) <= keep or not table.rows:
        return None
    rows = tuple(Row(_chosen(row.cells, shown), row.kind) for row in table.rows)
    return Table(_chosen(table.heads, shown), rows, table.note)


def transposed(table: Table) -> Table:
    """Columns as rows; the rows' kinds are lost."""
    heads = (table.heads[0], *(row.cells[0] for row in table.rows))
    turned = (Row((name, *(row.cells[i] for row in table.rows))) for i, name in enumerate(table.heads) if i)
    return Table(heads, tuple(turned), table.note)


def turned(table: Table | None) -> Iterator[Table]:
    """A table as a page has room for it; nothing for None."""
    if table:
        yield transposed(table) if len(table.heads) > max(WIDE, len(table.rows)) else table


def _chosen(cells: Sequence[str], which: Sequence[int]) -> tuple[str, ...]:
    return tuple(cells[i] for i in which)
