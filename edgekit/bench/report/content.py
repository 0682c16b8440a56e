"""The report as Markdown: one table a model, what each figure rests on, and what it cannot say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit.bench.records import Measurement, Record
from edgekit.bench.results import Damage, Results, damage
from edgekit.metrics import Estimate

_NONE = "-"
_ORDER = {"reference": 0, "variant": 1, "control": 2}


@dataclass(frozen=True)
class Column:
    """One column of a table: its head, and a row's text."""

    head: str
    text: Callable[[Record], str]


def models(results: Results) -> dict[str, list[Record]]:
    """The records of each model: reference, variants as the artifact lists them, controls."""
    grouped: dict[str, list[Record]] = {}
    for record in results.records:
        grouped.setdefault(record.model, []).append(record)
    return {model: sorted(rows, key=lambda row: _ORDER[row.kind]) for model, rows in grouped.items()}


def columns(records: Sequence[Record]) -> list[Column]:
    """The main table's columns, those that no row has left out."""
    headline = headline_task(records)
    every = [
        Column("level", lambda r: r.row),
        Column("size MB", lambda r: _number(r.bytes, 1e6, 1)),
        Column("bits/weight", lambda r: _number(r.bits_per_weight, 1, 2)),
        Column("accuracy %", lambda r: percent(_of(r, headline))),
        Column("to full precision, points", lambda r: points(_measured(r, headline))),
        Column("KL, nats", lambda r: small(r.metric("kl"))),
        Column("top-1 %", lambda r: percent(r.metric("top1"), 2)),
        Column("image cosine", lambda r: cosine(r.metric("cosine_image"))),
        Column("text cosine", lambda r: cosine(r.metric("cosine_text"))),
        Column("load s", lambda r: median(r.metric("load_s"), 1, 2)),
        Column("first token ms", lambda r: median(r.metric("first_token_ms"))),
        Column("decode tok/s", lambda r: median(r.metric("decode_tokens_per_s"))),
        Column("image ms", lambda r: median(r.metric("image_encode_ms"), 1, 1)),
        Column("text ms", lambda r: median(r.metric("text_encode_ms"), 1, 1)),
        Column("peak MB", lambda r: median(r.metric("peak_memory_bytes"), 1e6)),
    ]
    return [column for column in every if any(column.text(record) != _NONE for record in records)]


def accuracy_columns(records: Sequence[Record]) -> list[Column]:
    """One column for each accuracy task, where there are several."""
    names = accuracy_tasks(records)
    tasks = [Column(name, partial(_with_difference, name)) for name in names]
    return [Column("level", lambda r: r.row), *tasks] if len(names) > 1 else []


def accuracy_tasks(records: Sequence[Record]) -> list[str]:
    """The accuracy tasks of these rows, in order."""
    return list(dict.fromkeys(m.task for record in records for m in record.accuracies))


def headline_task(records: Sequence[Record]) -> str | None:
    """The accuracy task that stands in the main table: the first."""
    return next(iter(accuracy_tasks(records)), None)


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


def damage_warning(results: Results) -> str | None:
    """What must be said first: the table cannot show damage, or something was not measured."""
    blind = [one for one in damage(results.records) if one.missed and not one.shown]
    lines = [f"{one.model}, {one.row}: no task shows the damage, so no figure here can show any" for one in blind]
    lines += [f"not measured: {error}" for error in results.errors]
    return "\n".join(f"**WARNING: {line}**" for line in lines) or None


def explanations(records: Sequence[Record]) -> list[str]:
    """What the figures of one model's table rest on."""
    first: dict[str, Measurement] = {}
    for record in records:
        for one in record.measurements:
            if not one.error:
                first.setdefault(one.task, one)
    lines = [_explanation(one, [m for r in records if (m := r.of(one.task))]) for one in first.values()]
    return lines + [_damage_line(one) for one in damage(records) if one.shown or one.missed]


def closing(results: Results) -> list[str]:
    """Data sources, machine, versions, time of each phase."""
    lines = list(results.notes)
    sources = {m.dataset["name"]: m.dataset for record in results.records for m in record.measurements}
    lines += [f"Data {s['title']}: {s['citation']}; licence {s['license']}; {s['note']}." for s in sources.values()]
    if results.records:
        here = results.records[0].environment
        versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
        commit = f", commit {here.commit[:12]}" if here.commit else ""
        lines.append(f"Machine: {here.cpu}, {here.cores} cores ({', '.join(here.features)}). {versions}{commit}.")
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results.phases.items() if seconds >= 0.5)
    return [*lines, f"Time: {phases}, together {sum(results.phases.values()):.0f} s."]


def percent(figure: Estimate | None, digits: int = 1) -> str:
    """A share with its interval, in percent."""
    if figure is None:
        return _NONE
    return f"{100 * figure.value:.{digits}f} [{100 * figure.low:.{digits}f}, {100 * figure.high:.{digits}f}]"


def points(one: Measurement | None) -> str:
    """The paired difference in percentage points with its interval."""
    if one is None or one.paired is None:
        return _NONE
    return f"{100 * one.paired.value:+.1f} [{100 * one.paired.low:+.1f}, {100 * one.paired.high:+.1f}]"


def small(figure: Estimate | None) -> str:
    """A divergence to two significant digits; where a logit was not finite it says so."""
    if figure is None:
        return _NONE
    return "not finite" if figure.value in (float("inf"), float("-inf")) else f"{figure.value:.2g}"


def cosine(figure: Estimate | None) -> str:
    """A cosine, which is told from 1 by its fifth digit."""
    return _NONE if figure is None else f"{figure.value:.5f}"


def median(figure: Estimate | None, unit: float = 1, digits: int = 0) -> str:
    """A median over rounds."""
    return _NONE if figure is None else f"{figure.value / unit:.{digits}f}"


def _number(value: float | None, unit: float, digits: int) -> str:
    return _NONE if value is None else f"{value / unit:.{digits}f}"


def _of(record: Record, task: str | None) -> Estimate | None:
    one = _measured(record, task)
    return one.metrics.get("accuracy") if one else None


def _measured(record: Record, task: str | None) -> Measurement | None:
    return record.of(task) if task else None


def _with_difference(task: str, record: Record) -> str:
    one = record.of(task)
    if one is None or "accuracy" not in one.metrics:
        return _NONE
    figure = percent(one.metrics["accuracy"])
    return f"{figure} ({points(one)})" if one.paired else figure


def _explanation(one: Measurement, rows: Sequence[Measurement]) -> str:
    """One line on one task: how it was asked, how many items, what chance gives."""
    details, name = one.details, f"{one.task}: {one.title}"
    if one.headline == "accuracy":
        prompt, base = details["prompt"], details["majority_baseline"]
        asked = f"prompt {prompt!r}" if isinstance(prompt, str) else f"{len(prompt)} prompts a label, averaged"
        budget = ""
        if "max_tokens" in details:
            cut = max(row.details.get("truncated_share", 0) for row in rows)
            budget = f"; at most {details['max_tokens']} tokens, at most {100 * cut:.1f} % of a row's answers cut off"
        chance = (
            f"always {base['label']!r} gives {100 * base['accuracy']:.1f} %, balanced {100 * base['balanced']:.1f} %"
        )
        return f"{name}; n = {one.n}; {asked}; parser {details['parser']}{budget}; {chance}."
    if one.headline == "kl":
        floor = f"; the reference against itself {one.noise_floor:.1g}" if one.noise_floor is not None else ""
        where = f"{details['positions']} positions, {details['positions_after_image']} after an image"
        return f"{name}; KL(reference || level), mean over {where}; top-1 is the share of equal top tokens{floor}."
    if one.headline:
        return f"{name}; mean over {one.metrics[one.headline].n} vectors of {one.n} images."
    return f"{name}; medians over {details['rounds']} rounds, one process a row and round, rounds interleaved."


def _damage_line(one: Damage) -> str:
    parts = [f"shows in {', '.join(one.shown)}" if one.shown else "shows in NO task"]
    if one.missed:
        parts.append(f"not in {', '.join(one.missed)}, which could not show such damage in any row")
    return f"{one.row}: {'; '.join(parts)}."


def _table(chosen: Sequence[Column], records: Sequence[Record]) -> str:
    """A Markdown table, padded so that it reads as text too."""
    cells = [[column.head for column in chosen]]
    cells += [[column.text(record).replace("|", "\\|") for column in chosen] for record in records]
    widths = [max(len(row[i]) for row in cells) for i in range(len(chosen))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
