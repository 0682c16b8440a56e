"""Records: what was measured for each row, with everything that a reader needs to trust or repeat it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from edgekit import metrics
from edgekit.bench.cells import Outcome, identity
from edgekit.bench.datasets import Dataset
from edgekit.bench.environment import Environment
from edgekit.bench.subjects import Row, Subject
from edgekit.bench.tasks import PARSERS, AnswerTask, DecoderFidelityTask, LabelsTask, LatencyTask, Task
from edgekit.metrics import Estimate


@dataclass(frozen=True)
class Measurement:
    """One task on one row.

    Attributes:
        key: hash of the parts' ids, task, data, software, device and metric version. Equal keys measure the same.
        metrics: each with its 95 % interval and count; for latency the median, least and largest over the rounds.
        paired: the headline figure minus the reference's on the same items, None where there is nothing to compare.
        noise_floor: the headline figure of the reference against itself; less than this is no damage.
        details: what else belongs to the figure: prompt, parser, output budget, baselines, classes, quantiles.
        error: why there is no figure.
    """

    key: str
    task: str
    kind: str
    title: str
    headline: str
    task_sha256: str
    dataset: dict[str, str]
    n: int
    metrics: dict[str, Estimate]
    paired: Estimate | None = None
    noise_floor: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Record:
    """One row: what it is, what was measured, where."""

    model: str
    recipe: str
    stand_in: str | None
    source_sha256: str
    row: str
    kind: str
    level: str | None
    formats: tuple[str, ...]
    part_ids: Mapping[str, str] | None
    bytes: int | None
    bits_per_weight: float | None
    tensor_types: Mapping[str, int] | None
    control: dict[str, Any] | None
    measurements: tuple[Measurement, ...]
    environment: Environment

    def of(self, task: str) -> Measurement | None:
        """The measurement of this task."""
        return next((m for m in self.measurements if m.task == task), None)

    def metric(self, name: str) -> Estimate | None:
        """The first figure of this name among all measurements."""
        return next((m.metrics[name] for m in self.measurements if name in m.metrics), None)

    @property
    def accuracies(self) -> tuple[Measurement, ...]:
        """The measurements whose headline is an accuracy."""
        return tuple(m for m in self.measurements if m.headline == "accuracy")


def record(subject: Subject, row: Row, measurements: Sequence[Measurement], here: Environment) -> Record:
    """Put a row's record together."""
    manifest, opening = subject.manifest, row.opening
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
        control={"role": opening.role, "bits": opening.bits, "scale": opening.scale} if opening.bits else None,
        measurements=tuple(measurements),
        environment=here,
    )


def measurement(
    task: Task, row: Row, dataset: Dataset, outcomes: Sequence[Outcome], reference: Outcome | None, here: Environment
) -> Measurement:
    """The figures of one task on one row.

    Args:
        outcomes: one, or for latency one a round.
        reference: the reference row's outcome, None where it has none.
    """
    base = _base(task, row, dataset, here)
    failed = next((outcome.error for outcome in outcomes if outcome.error), None)
    seconds = sum(outcome.seconds for outcome in outcomes)
    if failed or not outcomes:
        return Measurement(**base, metrics={}, seconds=seconds, error=failed or "it was not run")
    good = reference.result if reference and not reference.error else None
    result = outcomes[0].result
    if isinstance(task, LabelsTask | AnswerTask):
        figures = _accuracy(task, result, None if row.kind == "reference" else good)
    elif isinstance(task, DecoderFidelityTask):
        figures = _decoder(result)
    elif isinstance(task, LatencyTask):
        figures = _latency([outcome.result for outcome in outcomes])
    else:
        figures = _encoder(result)
    floor = None
    if task.compared and good is not None:
        own = _decoder(good) if isinstance(task, DecoderFidelityTask) else _encoder(good)
        floor = own["metrics"][task.headline].value
    return Measurement(**base, **figures, noise_floor=floor, seconds=seconds)


def _base(task: Task, row: Row, dataset: Dataset, here: Environment) -> dict[str, Any]:
    source, data_sha256 = dataset.source, dataset.sha256
    return {
        "key": cell_key(task, row, data_sha256, here),
        "task": task.name,
        "kind": task.kind,
        "title": task.title,
        "headline": task.headline,
        "task_sha256": task.sha256,
        "dataset": {
            "name": source.name,
            "title": source.title,
            "citation": source.citation,
            "license": source.license,
            "note": source.note,
            "sha256": data_sha256,
        },
        "n": len(dataset.images),
    }


def cell_key(task: Task, row: Row, data_sha256: str, here: Environment) -> str:
    """Identity of a measurement: the same key, the same figure (latency apart)."""
    software = [here.versions, here.code, here.metric_version]
    return identity(row.key, task.sha256, data_sha256, software, here.fingerprint)


def _accuracy(
    task: LabelsTask | AnswerTask, result: dict[str, Any], reference: dict[str, Any] | None
) -> dict[str, Any]:
    truth, predicted = result["truth"], result["predicted"]
    right = _right(result)
    classes = {label: right[np.asarray(truth, object) == label] for label in sorted(set(truth))}
    largest = max(classes, key=lambda label: len(classes[label]))
    baseline = {"label": largest, "accuracy": len(classes[largest]) / len(truth), "balanced": 1 / len(classes)}
    details: dict[str, Any] = {
        "parser": f"{task.parser}: {PARSERS[task.parser][0]}",
        "prompt": list(task.prompts) if isinstance(task, LabelsTask) else task.prompt,
        "majority_baseline": baseline,
        "per_class": {label: asdict(metrics.wilson_interval(int(c.sum()), len(c))) for label, c in classes.items()},
        "unparsed_share": sum(p is None for p in predicted) / len(truth),
    }
    if isinstance(task, AnswerTask):
        details |= {"max_tokens": task.max_tokens, "truncated_share": result["truncated"] / len(truth)}
    return {
        "metrics": {
            "accuracy": metrics.wilson_interval(int(right.sum()), len(right)),
            "balanced_accuracy": metrics.balanced_accuracy(truth, predicted),
        },
        "paired": metrics.paired_interval(right, _right(reference)) if reference else None,
        "details": details,
    }


def _right(result: dict[str, Any]) -> np.ndarray:
    return np.asarray([t == p for t, p in zip(result["truth"], result["predicted"], strict=True)], np.float64)


def _decoder(result: dict[str, Any]) -> dict[str, Any]:
    kl, agrees = np.asarray(result["kl"], np.float64), np.asarray(result["agrees"], np.float64)
    image, cluster = np.asarray(result["after_image"], bool), np.asarray(result["cluster"])
    figures = {}
    for name, chosen in (("", np.ones_like(image)), ("_after_image", image), ("_text", ~image)):
        if chosen.any():
            figures[f"kl{name}"] = metrics.mean_interval(kl[chosen], cluster[chosen])
            figures[f"top1{name}"] = metrics.mean_interval(agrees[chosen], cluster[chosen])
    details = {
        "kl_quantiles": asdict(metrics.quantiles(kl)),
        "positions": len(kl),
        "positions_after_image": int(image.sum()),
        "clear_top1_changes": result["clear_changes"],
    }
    return {"metrics": figures, "details": details}


def _encoder(result: dict[str, Any]) -> dict[str, Any]:
    figures, details = {}, {}
    for name, cosines in result.items():
        values = np.asarray(cosines, np.float64)  # [n], or [n, tokens] whose rows are one image each
        items = np.repeat(np.arange(len(values)), values[0].size)
        figures[f"cosine_{name}"] = metrics.mean_interval(values, items)
        details[f"worst_cosine_{name}"] = float(values.min())
    return {"metrics": figures, "details": details}


def _latency(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median, least and largest over the rounds."""
    figures = {}
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        figures[name] = Estimate(median(values), min(values), max(values), len(values))
    return {"metrics": figures, "details": {"rounds": len(rounds)}}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses as objects, NaN and infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
