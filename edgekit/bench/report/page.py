"""The report as one HTML file: tables, charts and notes, readable in light and dark, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from edgekit.bench.records import Record
from edgekit.bench.report import charts
from edgekit.bench.report import content as report
from edgekit.bench.report.charts import Mark
from edgekit.bench.report.content import Column
from edgekit.bench.results import Results

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9d9e0; --paper: #fcfcfd;
  --reference: #3e63dd; --variant: #12805c; --control: #c2410c; --warn: #fde8e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #363a3f; --paper: #111113;
  --reference: #849dff; --variant: #4cc38a; --control: #ff8b3e; --warn: #3a1d12; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; white-space: nowrap }
th { white-space: normal; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
tr.reference td:first-child { color: var(--reference) } tr.control td:first-child { color: var(--control) }
.note, li, figcaption { color: var(--soft) } .warn { background: var(--warn); padding: .6rem 1rem; font-weight: 600 }
figure { margin: 1.2rem 0; max-width: 860px } svg { width: 100%; height: auto }
svg text { fill: var(--ink); font-size: 12px }
svg .tick { fill: var(--soft); font-size: 11px } .grid { stroke: var(--line) }
.dashed { stroke: var(--soft); stroke-dasharray: 4 3 } .interval { stroke-width: 2 }
svg .reference { fill: var(--reference); stroke: var(--reference) }
svg .variant { fill: var(--variant); stroke: var(--variant) }
svg .control { fill: var(--control); stroke: var(--control) } .range { stroke: var(--ink); opacity: .7 }
"""

# (figure, title, unit, what one unit is)
_COSTS = (
    ("first_token_ms", "First token of an image question", "ms", 1.0),
    ("decode_tokens_per_s", "Decoding", "tokens/s", 1.0),
    ("image_encode_ms", "Encoding one image", "ms", 1.0),
    ("load_s", "Opening the model", "s", 1.0),
    ("peak_memory_bytes", "Peak memory of the process", "MB", 1e6),
)


def page(results: Results) -> str:
    """The whole page."""
    warning = report.damage_warning(results)
    parts = ["<h1>edgekit benchmark</h1>"]
    if warning:
        parts.append(f'<p class="warn">{escape(warning.replace("**", "")).replace(chr(10), "<br>")}</p>')
    for model, records in report.models(results).items():
        parts += _model(model, records)
    parts.append(f"<h2>Sources, machine, time</h2>{_list(report.closing(results))}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>edgekit benchmark</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _model(model: str, records: Sequence[Record]) -> list[str]:
    parts = [f"<h2>{escape(model)}</h2>"]
    if records[0].stand_in:
        parts.append(f'<p class="note">Stand-in: {escape(records[0].stand_in)}</p>')
    parts.append(_table(report.columns(records), records))
    parts += _accuracy_charts(records)
    parts += _fidelity_charts(records)
    parts.append(_logit_table(records))
    parts += _cost_charts(records)
    if classes := _class_table(records):
        parts.append(classes)
    parts.append(_types_table(records))
    parts.append(_list(report.explanations(records)))
    return parts


def _accuracy_charts(records: Sequence[Record]) -> list[str]:
    """Each task's accuracy with intervals, its baseline dashed, and the paired differences, zero dashed."""
    drawn = []
    for task in report.accuracy_tasks(records):
        measured = [(r, m) for r in records if (m := r.of(task)) and "accuracy" in m.metrics]
        if not measured:
            continue
        first = measured[0][1]
        baseline = 100 * first.details["majority_baseline"]["accuracy"]
        marks = [_mark(r, m.metrics["accuracy"], 0.01) for r, m in measured]
        title = f"{first.title}: accuracy with 95 % interval, n = {first.n}; dashed: always the most frequent answer"
        drawn.append(charts.intervals(marks, title=title, unit="%", reference=baseline))
        paired = [_mark(r, m.paired, 0.01) for r, m in measured if m.paired]
        if paired:
            title = f"{first.title}: difference to full precision on the same items, 95 % interval"
            drawn.append(charts.intervals(paired, title=title, unit="points", reference=0.0))
    return drawn


def _fidelity_charts(records: Sequence[Record]) -> list[str]:
    drawn = []
    points = [
        (r.row, r.kind, r.bits_per_weight, kl.value)
        for r in records
        if r.bits_per_weight and r.kind == "variant" and (kl := r.metric("kl")) and math.isfinite(kl.value)
    ]
    if points:
        title = "Distance from full precision against size: less is better on both axes"
        drawn.append(charts.scatter(points, title=title, x_unit="bits per weight", y_unit="KL, nats"))
    for name, what in (("cosine_image", "image"), ("cosine_text", "text")):
        marks = [_mark(r, c) for r in records if (c := r.metric(name)) and math.isfinite(c.value)]
        if marks:
            title = f"Cosine of {what} embeddings with the reference's, 95 % interval"
            drawn.append(charts.intervals(marks, title=title, unit="cosine", digits=5))
    return drawn


def _cost_charts(records: Sequence[Record]) -> list[str]:
    drawn = []
    for name, title, unit, scale in _COSTS:
        marks = [_mark(r, figure, scale) for r in records if (figure := r.metric(name))]
        if marks:
            drawn.append(charts.bars(marks, title=f"{title}: median and range over rounds", unit=unit))
    return drawn


def _mark(record: Record, figure: object, unit: float = 1.0) -> Mark:
    value, low, high = (getattr(figure, name) / unit for name in ("value", "low", "high"))
    return Mark(record.row, record.kind, value, *((low, high) if math.isfinite(low) else (value, value)))


def _class_table(records: Sequence[Record]) -> str:
    """Share of right answers of each class, for each accuracy task."""
    parts = []
    for task in report.accuracy_tasks(records):
        measured = [m for r in records if (m := r.of(task)) and "per_class" in m.details]
        if not measured:
            continue
        columns = [Column("level", lambda r: r.row), Column("balanced accuracy %", partial(_balanced, task))]
        columns += [Column(name, partial(_class_share, task, name)) for name in measured[0].details["per_class"]]
        parts.append(f'<p class="note">{escape(measured[0].title)}: right answers of each class</p>')
        parts.append(_table(columns, records))
    return "".join(parts)


def _balanced(task: str, record: Record) -> str:
    one = record.of(task)
    return report.percent(one.metrics.get("balanced_accuracy") if one else None)


def _class_share(task: str, name: str, record: Record) -> str:
    one = record.of(task)
    share = one.details.get("per_class", {}).get(name) if one else None
    return f"{100 * share['value']:.0f} % of {share['n']}" if share else "-"


def _logit_table(records: Sequence[Record]) -> str:
    """Where logits differ: after images and in text, in the mean and at the worst positions."""
    measured = [r for r in records if _logits(r)]
    columns = [
        Column("logits", lambda r: r.row),
        Column("KL after an image", lambda r: report.small(r.metric("kl_after_image"))),
        Column("KL in text", lambda r: report.small(r.metric("kl_text"))),
        *(Column(f"KL {name}", partial(_quantile, name)) for name in ("median", "p90", "p99", "maximum")),
        Column("top-1 % after an image", lambda r: report.percent(r.metric("top1_after_image"))),
        Column("top-1 % in text", lambda r: report.percent(r.metric("top1_text"))),
        Column("clear changes of the top token", lambda r: str(_logits(r).get("clear_top1_changes"))),
        Column("not finite", partial(_quantile, "nonfinite")),
    ]
    return _table(columns, measured) if measured else ""


def _logits(record: Record) -> Mapping[str, Any]:
    """The details of the row's comparison of logits, empty without one."""
    return next((m.details for m in record.measurements if "kl_quantiles" in m.details), {})


def _quantile(name: str, record: Record) -> str:
    return f"{_logits(record)['kl_quantiles'][name]:.2g}"


def _types_table(records: Sequence[Record]) -> str:
    """How many weights are stored as which type, so that a fallback cannot hide."""
    types = sorted({name for r in records for name in (r.tensor_types or {})})
    columns = [Column("weights by type", lambda r: r.row), *(Column(name, partial(_count, name)) for name in types)]
    return _table(columns, [r for r in records if r.tensor_types])


def _count(name: str, record: Record) -> str:
    count = (record.tensor_types or {}).get(name)
    return f"{count:,}" if count else "-"


def _table(columns: Sequence[Column], records: Sequence[Record]) -> str:
    head = "".join(f"<th>{escape(column.head)}</th>" for column in columns)
    rows = []
    for record in records:
        cells = "".join(f"<td>{escape(column.text(record))}</td>" for column in columns)
        rows.append(f'<tr class="{record.kind}">{cells}</tr>')
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
