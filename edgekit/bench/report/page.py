"""The report as one HTML file: tables, charts and notes, readable in light and dark, nothing loaded from elsewhere.

`page.html.jinja` is the page, with every text escaped; what stands in it is gathered here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgekit.bench.records import Record
from edgekit.bench.report import charts
from edgekit.bench.report.charts import Mark
from edgekit.bench.report.content import (
    Column,
    accuracy_tasks,
    closing,
    columns,
    damage_warning,
    explanations,
    models,
)
from edgekit.bench.report.figures import NONE, percent, small
from edgekit.bench.results import Results

# (figure, title, unit, what one unit is)
_COSTS = (
    ("first_token_ms", "First token of an image question", "ms", 1.0),
    ("decode_tokens_per_s", "Decoding", "tokens/s", 1.0),
    ("image_encode_ms", "Encoding one image", "ms", 1.0),
    ("load_s", "Opening the model", "s", 1.0),
    ("peak_memory_bytes", "Peak memory of the process", "MB", 1e6),
)


@dataclass(frozen=True)
class Table:
    """Some records under some columns, with a line above."""

    columns: Sequence[Column]
    records: Sequence[Record]
    note: str = ""


def page(results: Results) -> str:
    """The whole page."""
    pages = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    warning = damage_warning(results)
    return pages.get_template("page.html.jinja").render(
        warnings=warning.replace("**", "").splitlines() if warning else [],
        models=[_model(name, records) for name, records in models(results).items()],
        closing=closing(results),
    )


def _model(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """What the page says of one model; charts stand among the blocks as SVG."""
    return {
        "name": name,
        "stand_in": records[0].stand_in,
        "blocks": [
            Table(columns(records), records),
            *_accuracy_charts(records),
            *_fidelity_charts(records),
            *_logit_tables(records),
            *_cost_charts(records),
            *_class_tables(records),
            _types_table(records),
        ],
        "explanations": explanations(records),
    }


def _accuracy_charts(records: Sequence[Record]) -> list[str]:
    """Each task's accuracy with intervals, its baseline dashed, and the paired differences, zero dashed."""
    drawn = []
    for task in accuracy_tasks(records):
        measured = [(r, m) for r in records if (m := r.of(task)) and "accuracy" in m.metrics]
        if not measured:
            continue
        first = measured[0][1]
        baseline, dashed = None, ""
        if chance := first.details.get("majority_baseline"):
            baseline, dashed = 100 * chance["accuracy"], "; dashed: always the most frequent answer"
        marks = [_mark(r, m.metrics["accuracy"], 0.01) for r, m in measured]
        title = f"{first.title}: accuracy with 95 % interval, n = {first.counted}{dashed}"
        drawn.append(charts.intervals(marks, title=title, unit="%", baseline=baseline))
        paired = [_mark(r, m.paired.difference, 0.01) for r, m in measured if m.paired]
        if paired:
            title = f"{first.title}: difference to full precision on the same items, 95 % interval"
            drawn.append(charts.intervals(paired, title=title, unit="points", baseline=0.0))
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


def _class_tables(records: Sequence[Record]) -> list[Table]:
    """Share of right answers of each class, for each accuracy task."""
    tables = []
    for task in accuracy_tasks(records):
        measured = [m for r in records if (m := r.of(task)) and "per_class" in m.details]
        if not measured:
            continue
        shown = [Column("level", lambda r: r.row), Column("balanced accuracy %", partial(_balanced, task))]
        shown += [Column(name, partial(_class_share, task, name)) for name in measured[0].details["per_class"]]
        tables.append(Table(shown, records, f"{measured[0].title}: right answers of each class"))
    return tables


def _balanced(task: str, record: Record) -> str:
    measured = record.of(task)
    return percent(measured.metrics.get("balanced_accuracy") if measured else None)


def _class_share(task: str, name: str, record: Record) -> str:
    measured = record.of(task)
    share = measured.details.get("per_class", {}).get(name) if measured else None
    return f"{100 * share['value']:.0f} % of {share['n']}" if share else NONE


def _logit_tables(records: Sequence[Record]) -> list[Table]:
    """Where logits differ: after images and in text, in the mean and at the worst positions."""
    measured = [r for r in records if _logits(r)]
    shown = [
        Column("logits", lambda r: r.row),
        Column("KL after an image", lambda r: small(r.metric("kl_after_image"))),
        Column("KL in text", lambda r: small(r.metric("kl_text"))),
        *(Column(f"KL {name}", partial(_quantile, name)) for name in ("median", "p90", "p99", "maximum")),
        Column("top-1 % after an image", lambda r: percent(r.metric("top1_after_image"))),
        Column("top-1 % in text", lambda r: percent(r.metric("top1_text"))),
        Column("clear changes of the top token", lambda r: str(_logits(r).get("clear_top1_changes"))),
        Column("not finite", partial(_quantile, "nonfinite")),
    ]
    return [Table(shown, measured)] if measured else []


def _logits(record: Record) -> Mapping[str, Any]:
    """The details of the row's comparison of logits, empty without one."""
    return next((m.details for m in record.measurements if "kl_quantiles" in m.details), {})


def _quantile(name: str, record: Record) -> str:
    value = _logits(record)["kl_quantiles"][name]
    return NONE if value is None else f"{value:.2g}"  # a percentile that so few positions cannot carry


def _types_table(records: Sequence[Record]) -> Table:
    """How many weights are stored as which type, so that a fallback cannot hide."""
    types = sorted({name for r in records for name in (r.tensor_types or {})})
    shown = [Column("weights by type", lambda r: r.row), *(Column(name, partial(_count, name)) for name in types)]
    return Table(shown, [r for r in records if r.tensor_types])


def _count(name: str, record: Record) -> str:
    count = (record.tensor_types or {}).get(name)
    return f"{count:,}" if count else NONE
