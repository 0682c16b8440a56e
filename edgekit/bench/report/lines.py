"""The report for programs: one line a figure, as CSV and as JSON lines; llama-bench's names where it has the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from edgekit.bench.records import Measurement, Record, plain
from edgekit.bench.report import llama_bench
from edgekit.bench.results import Results
from edgekit.metrics import Estimate
from edgekit.terminal import json_text, printable

_FORMULA = ("=", "+", "-", "@")
_PROOF = ("p", "adjusted_p", "margin", "within", "gained", "lost", "items_needed")
FIELDS = (
    "model", "recipe", "stand_in", "row", "row_kind", "level", "formats", "memory_bytes", "bits_per_weight",
    *llama_bench.ABOUT, "task", "kind", "dataset", "figure", "value", "low", "high", "n", *_PROOF, "noise_floor",
    *llama_bench.TEST, "disturbed", "error", "cores", "fingerprint", "metric_version", "key",
)  # fmt: skip


def as_csv(results: Results) -> str:
    """A line of names, then a line a figure; an empty cell where there is nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for line in lines(results):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """A number as it is, text as one line that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)


def as_json_lines(results: Results) -> str:
    """An object a line and figure; null where there is nothing."""
    return "".join(f"{json_text(line)}\n" for line in lines(results))


def lines(results: Results) -> Iterator[dict[str, Any]]:
    """Every figure of every row: each task's metrics, and `X_difference` to full precision for a headline X.

    A task that failed has one line, with its error and no figure.
    """
    for record in results.records:
        for measured in record.measurements:
            about = {**llama_bench.about(record, measured), **_about(record, measured)}
            found = list(_figures(measured)) or [("", None, {})]
            for name, figure, proof in found:
                numbers = {field: getattr(figure, field, None) for field in ("value", "low", "high", "n")}
                told = {**about, "figure": name, **numbers, **proof, **llama_bench.test(measured, name)}
                named = (*FIELDS, *(name for name in llama_bench.SAMPLES if name in told))
                yield plain({field: told.get(field) for field in named})


def _figures(measured: Measurement) -> Iterator[tuple[str, Estimate | None, dict[str, Any]]]:
    for name, figure in measured.metrics.items():
        yield name, figure, {}
    if measured.paired:
        proof = {field: getattr(measured.paired, field) for field in _PROOF}
        yield f"{measured.headline}_difference", measured.paired.difference, proof


def _about(record: Record, measured: Measurement) -> dict[str, Any]:
    here = record.environment
    return {
        "model": record.model,
        "recipe": record.recipe,
        "stand_in": record.stand_in,
        "row": record.row,
        "row_kind": record.kind,
        "level": record.level,
        "formats": "+".join(record.formats),
        "memory_bytes": record.memory_bytes,
        "bits_per_weight": record.bits_per_weight,
        "task": measured.task,
        "kind": measured.kind,
        "dataset": measured.dataset.get("name"),
        "noise_floor": measured.noise_floor,
        "disturbed": measured.details.get("disturbed"),
        "error": measured.error,
        "cores": here.cores,
        "fingerprint": here.fingerprint,
        "metric_version": here.metric_version,
        "key": measured.key,
    }
