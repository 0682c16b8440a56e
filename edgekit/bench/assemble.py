"""From outcomes to records: the figures of each task on each row, and the identity of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.bench.cells import Outcome, identity
from edgekit.bench.datasets import Dataset
from edgekit.bench.environment import Environment
from edgekit.bench.kinds import Task
from edgekit.bench.records import Measurement, Record
from edgekit.bench.subjects import Subject, TableRow
from edgekit.metrics import Estimate


def record(subject: Subject, row: TableRow, measurements: Sequence[Measurement], here: Environment) -> Record:
    """Put a row's record together."""
    manifest, control = subject.manifest, row.model.control
    return Record(
        model=manifest.title,
        recipe=manifest.recipe,
        stand_in=manifest.stand_in,
        source_sha256=manifest.source.sha256,
        row=row.name,
        kind=row.kind,
        level=row.level,
        formats=row.formats,
        part_ids=row.part_ids,
        bytes=row.bytes,
        bits_per_weight=row.bits_per_weight,
        tensor_types=row.tensor_types,
        control={"role": control.role, "bits": control.bits, "scale": control.scale} if control else None,
        measurements=tuple(measurements),
        environment=here,
        tuned=row.tuned,
        memory_bytes=row.memory_bytes,
    )


def measurement(
    task: Task,
    row: TableRow,
    dataset: Dataset,
    outcomes: Sequence[Outcome],
    full_precision: Outcome | None,
    here: Environment,
    attribution: Mapping[str, str],
) -> Measurement:
    """The figures of one task on one row.

    Args:
        attribution: whose data it is (`datasets.attribution`).
        outcomes: one, or one a round.
        full_precision: the full-precision row's outcome, None where it has none.
    """
    base = _base(task, row, dataset, here, attribution)
    failed = next((outcome.error for outcome in outcomes if outcome.error), None)
    seconds = sum(outcome.seconds for outcome in outcomes)
    if failed or not outcomes:
        return Measurement(**base, metrics={}, seconds=seconds, error=failed or "it was not run")
    exact = full_precision.result if full_precision and not full_precision.error else None
    figures = task.summarize([outcome.result for outcome in outcomes], None if row.model.is_full_precision else exact)
    floor = None
    if task.needs_full_precision and exact is not None:
        noise = task.noise_floor(exact)
        floor = noise.value if noise else None
    if figures.n is not None:
        base["n"] = figures.n
    return Measurement(
        **base,
        metrics=_with_itself(task, figures.metrics) if row.model.is_full_precision else figures.metrics,
        paired=figures.paired,
        noise_floor=floor,
        details=figures.details,
        seconds=seconds,
    )


def _with_itself(task: Task, figures: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Full precision's figures: what compares it with itself is no sample of anything, so it has no interval."""
    own = task.own_figures if task.needs_full_precision else figures
    return {
        name: figure if name in own else replace(figure, low=figure.value, high=figure.value, method="of itself")
        for name, figure in figures.items()
    }


def cell_key(task: Task, row: TableRow, data_sha256: str, here: Environment) -> str:
    """Identity of a measurement: the same key, the same figure (times apart)."""
    software = [here.versions, here.code, here.metric_version]
    return identity(row.key, task.sha256, data_sha256, software, here.fingerprint)


def _base(
    task: Task, row: TableRow, dataset: Dataset, here: Environment, attribution: Mapping[str, str]
) -> dict[str, Any]:
    data_sha256 = dataset.sha256
    return {
        "key": cell_key(task, row, data_sha256, here),
        "task": task.name,
        "kind": task.kind,
        "title": task.title,
        "headline": task.headline,
        "task_sha256": task.sha256,
        "dataset": {**attribution, "sha256": data_sha256},
        "n": len(dataset.samples),
        "failed": tuple(str(sample.problem) for sample in dataset.unread),
    }
