"""Whether results that were read can have been measured: a hash shows damage, and not who edits and makes it anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from edgekit.artifacts.files import sha256_json
from edgekit.artifacts.validation import StrictModel, validated
from edgekit.bench.records import Measurement, Record
from edgekit.bench.results import Results
from edgekit.errors import InputError
from edgekit.metrics import Estimate

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
_NEVER_NEGATIVE = ("_bytes", "_ms", "_s")
_ATTRIBUTED = ("name", "title", "citation", "license", "note")  # what reports say of a task's data


class _Baseline(StrictModel, extra="allow"):
    label: str
    accuracy: _Share


class _Queries(StrictModel, extra="allow"):
    queries: _Count


class _Rate(StrictModel):
    library: str
    per_s: float


class _Limits(StrictModel):
    bandwidth: dict[Annotated[str, Field(pattern="^[0-9]{1,6}$")], float]
    rates: dict[str, _Rate]


class _Details(StrictModel, extra="allow"):
    """What reports read of details; kinds may write more."""

    majority_baseline: _Baseline | None = None
    truncated_share: _Share | None = None
    unparsed_share: _Share | None = None
    by_topic: dict[str, Any] | None = None
    directions: dict[str, _Queries] | None = None
    present: dict[str, Annotated[list[_Count], Field(min_length=2, max_length=2)]] | None = None
    folds: _Count | None = None
    c: float | None = None
    rounds: _Count | None = None
    disturbed: str | None = None
    others_share: float | None = None
    limits: _Limits | None = None
    threads: _Count | None = None
    runtimes: dict[str, str] | None = None
    prompt_tokens: _Count | None = None
    steps: _Count | None = None
    started: list[str] | None = None
    prompt_s: list[list[Annotated[float, Field(gt=0)]]] | None = None
    step_ms: list[list[Annotated[float, Field(gt=0)]]] | None = None


def check(results: Results, where: str) -> None:
    """See that these results can have been measured.

    Args:
        where: what a message begins with.

    Raises:
        InputError: a row or a task stands there twice, or a figure is impossible.
    """
    rows = set()
    for record in results.records:
        which = [record.model, record.source_sha256, record.row, record.environment.fingerprint]
        row = sha256_json([*which, dict(record.part_ids or {}), dict(record.tuned or {})])
        place = f"{where}: {record.model}, {record.row}"
        if row in rows:
            raise InputError(f"{place}: stands there twice")
        rows.add(row)
        for wrong in _of_record(record):
            raise InputError(f"{place}: {wrong}")
        tasks = set()
        for measured in record.measurements:
            if measured.task in tasks:
                raise InputError(f"{place}: its task {measured.task} stands there twice")
            tasks.add(measured.task)
            for wrong in _of_measurement(measured):
                raise InputError(f"{place}, {measured.task}: {wrong}")
            validated(_Details, dict(measured.details), f"{place}, {measured.task}", InputError, inside="details.")


def _of_record(record: Record) -> Iterator[str]:
    sizes = {"bytes": record.bytes, "memory_bytes": record.memory_bytes, "bits_per_weight": record.bits_per_weight}
    yield from (f"{name} {size}" for name, size in sizes.items() if size is not None and not 0 <= size < math.inf)
    yield from (f"{count} weights of type {name}" for name, count in (record.tensor_types or {}).items() if count < 0)


def _of_measurement(measured: Measurement) -> Iterator[str]:
    if missing := [name for name in _ATTRIBUTED if name not in measured.dataset]:
        yield f"its data has no {missing[0]}"
    if measured.n < 0:
        yield f"{measured.n} samples"
    figures = dict(measured.metrics)
    if measured.paired:
        figures["difference"] = measured.paired.difference
        for name in ("p", "adjusted_p"):
            p = getattr(measured.paired, name)
            if p is not None and not 0 <= p <= 1:
                yield f"{name} {p}"
    yield from (f"{name}: {wrong}" for name, figure in figures.items() if (wrong := _impossible(figure)))
    yield from (f"{name}: {f.low:g}" for name, f in figures.items() if name.endswith(_NEVER_NEGATIVE) and f.low < 0)
    yield from _estimates(measured.details, "details")


def _estimates(value: Any, where: str) -> Iterator[str]:
    """What is wrong with the estimates that details hold as JSON has them."""
    if isinstance(value, Mapping):
        if "value" in value:
            middle, low, high = value["value"], value.get("low", math.nan), value.get("high", math.nan)
            n = value.get("n", 0)
            if not all(type(number) in (int, float) for number in (middle, low, high)) or type(n) is not int:
                yield f"{where}: no figure"
            elif wrong := _impossible(Estimate(middle, low, high, n)):
                yield f"{where}: {wrong}"
        for name, entry in value.items():
            if name == "difference" and entry is not None and not (isinstance(entry, Mapping) and "value" in entry):
                yield f"{where}.{name}: no figure"
            yield from _estimates(entry, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _estimates(entry, where)


def _impossible(figure: Estimate) -> str | None:
    """Why nobody can have measured this figure; an interval by resampling may miss its value by less than its width."""
    if figure.n < 0:
        return f"{figure.n} items"
    if figure.low > figure.high:
        return f"an interval from {figure.low:g} to {figure.high:g}"
    slack = figure.high - figure.low + 1e-6 * abs(figure.value)
    if figure.value < figure.low - slack or figure.value > figure.high + slack:
        return f"{figure.value:g} with an interval from {figure.low:g} to {figure.high:g}"
    return None
