"""Every figure that was measured, task by task, whatever its kind: what the main table has no room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.bench.records import Measurement, Record
from edgekit.bench.report.blocks import Block, Paragraph, Row, Table, filled, turned
from edgekit.bench.report.columns import head_of, nearest, text_of
from edgekit.bench.report.figures import NONE, bare, number
from edgekit.bench.results import scored_tasks

# What a head does not say by itself.
_WORDS = {
    "image known ms": "the first token where the image's embeddings are there, and all else is new",
    "prefix known ms": "the first token of another question about the image just seen",
    "of matrix rate %": "of the fastest matrix product that was measured on this machine",
    "of bandwidth %": "of the bandwidth that was measured on this machine, as bytes of weights a step",
    "images/s, batched if it can": "several at once where the model takes them; all other times are of single requests",
    "others %": "of all cores' time, what other programs took, in the worst round",
    "swapped labels": "the share of pairs of labels whose order is not full precision's",
    "clear top1 changes": "positions where another token became the most likely although full precision's first two "
    "were clearly apart",
}


def tables(records: Sequence[Record]) -> Iterator[Block]:
    """One table of each task's figures, one of each breakdown of it, one of the weights' types."""
    scored = set(scored_tasks(records))
    for task in dict.fromkeys(m.task for record in records for m in record.measurements):
        rows = [(r, m) for r in records if (m := r.of(task)) and not m.error]
        if not rows:
            continue
        figures = _figures(rows, task in scored)
        yield from turned(figures)
        if words := [f"{word}: {said}" for word, said in _WORDS.items() if figures and word in figures.heads]:
            yield Paragraph(f"{'; '.join(words)}.")
        for name in dict.fromkeys(name for _, m in rows for name in m.details):
            yield from turned(_breakdown(rows, name, task in scored))
            yield from filter(None, [_listing(rows, name, task in scored)])
    yield from turned(_types(records))


def _figures(rows: Sequence[tuple[Record, Measurement]], scored: bool) -> Table | None:
    """All metrics, and those details that are one number."""
    first = rows[0][1]
    metrics = list(dict.fromkeys(name for _, m in rows for name in m.metrics))
    numbers = (name for _, m in rows for name, value in m.details.items() if isinstance(value, int | float))
    single = list(dict.fromkeys(numbers))
    heads = ("level", *(head_of(first.kind, name, scored) for name in metrics), *(_head(name) for name in single))
    lines = (
        Row(
            (
                record.row,
                *(text_of(m.kind, name, m.metrics.get(name), scored) for name in metrics),
                *(_single(name, m.details.get(name)) for name in single),
            ),
            record.kind,
        )
        for record, m in rows
    )
    return filled(Table(heads, tuple(lines), f"{first.task}: {first.title}, n = {first.counted}"))


def _head(name: str) -> str:
    words = name.removesuffix("_bytes").removesuffix("_share").replace("_", " ")
    return f"{words} MB" if name.endswith("_bytes") else f"{words} %" if name.endswith("_share") else words


def _single(name: str, value: Any) -> str:
    if isinstance(value, int | float) and name.endswith(("_share", "_bytes")):
        return number(value, 1e6 if name.endswith("_bytes") else 0.01, 1)
    return bare(value)


def _breakdown(rows: Sequence[tuple[Record, Measurement]], detail: str, scored: bool) -> Table | None:
    """A detail that has a number, or an estimate, under each of several names; None for any other."""
    first, given = rows[0][1], [(record, m.details.get(detail)) for record, m in rows]
    unit = _unit(first, detail, scored)
    parts = [(record, value) for record, value in given if isinstance(value, Mapping) and value]
    entries = [entry for _, value in parts for entry in value.values()]
    if not parts or not all(_shown(entry, unit) for entry in entries):
        return None
    if len(parts) > 1 and all(value == parts[0][1] for _, value in parts):
        return None  # of the items, not of the rows
    names = list(dict.fromkeys(name for _, value in parts for name in value))
    lines = (Row((r.row, *(_shown(v.get(name), unit) or NONE for name in names)), r.kind) for r, v in parts)
    return Table(("level", *map(str, names)), tuple(lines), f"{first.task}, {detail.replace('_', ' ')}")


def _listing(rows: Sequence[tuple[Record, Measurement]], detail: str, scored: bool) -> Table | None:
    """A detail that is a list of objects with the same names, each with a number or an estimate; None for any other."""
    unit = _unit(rows[0][1], detail, scored)
    parts = [(r, m.details[detail]) for r, m in rows if isinstance(m.details.get(detail), list | tuple)]
    entries = [(r, entry) for r, part in parts for entry in part if isinstance(entry, Mapping)]
    if not entries or len(entries) != sum(len(part) for _, part in parts):
        return None
    names = list(entries[0][1])
    if any(list(entry) != names or not all(_shown(v, unit) for v in entry.values()) for _, entry in entries):
        return None
    lines = (Row((r.row, *(_shown(entry[name], unit) for name in names)), r.kind) for r, entry in entries)
    return Table(("level", *map(str, names)), tuple(lines), f"{rows[0][1].task}, {detail.replace('_', ' ')}")


def _unit(measured: Measurement, detail: str, scored: bool) -> float:
    """What estimates in a detail are written in: as the figure that it divides, else as the task's headline."""
    column = nearest(measured.kind, detail)[0] or nearest(measured.kind, measured.headline)[0]
    return column.unit if column else 0.01 if scored else 1.0


def _shown(entry: Any, unit: float) -> str:
    """A number, or an estimate as JSON has it, with its difference where it has one; empty for all else."""
    if isinstance(entry, Mapping) and isinstance(value := entry.get("value"), int | float):
        text = bare(value / unit) + (" %" if unit == 0.01 else "")
        text = f"{text} (n = {entry['n']})" if "n" in entry else text
        apart = entry.get("difference")
        change = f" {'+' if apart['value'] > 0 else ''}{bare(apart['value'] / unit)}" if apart else ""
        return f"{text},{change}" if change else text
    return NONE if entry is None else bare(entry) if isinstance(entry, int | float) else ""


def _types(records: Sequence[Record]) -> Table | None:
    """How many weights are stored as which type, so that a fallback cannot hide."""
    types = sorted({name for r in records for name in (r.tensor_types or {})})
    rows = (
        Row((r.row, *(f"{count:,}" if (count := r.tensor_types.get(name)) else NONE for name in types)), r.kind)
        for r in records
        if r.tensor_types
    )
    return filled(Table(("weights by type", *types), tuple(rows)))
