"""Records: what was measured for each row, with everything that a reader needs to trust or repeat it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgekit.bench.environment import Environment
from edgekit.metrics import Comparison, Estimate

Kind = Literal["reference", "variant", "peer", "control"]


@dataclass(frozen=True)
class Measurement:
    """One task on one row.

    Attributes:
        key: hash of the parts' ids, task, data, software, device and metric version. Equal keys measure the same.
        metrics: each with its 95 % interval and count; for latency the median, least and largest over the rounds.
        paired: the headline figure minus full precision's on the same items, None where there is nothing to compare.
        noise_floor: the headline figure of full precision in bfloat16 against float32; less than this is no damage.
        n: samples that the figures are of.
        failed: why each of the others that were chosen could not be read.
        details: what else belongs to the figure: prompt, parser, output budget, baselines, classes, quantiles.
        error: why there is no figure.
        run: of times, which of several merged runs measured them; empty where one measured all of a machine's.
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
    paired: Comparison | None = None
    noise_floor: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    failed: tuple[str, ...] = ()
    run: str = ""

    @property
    def counted(self) -> str:
        """How many samples the figures are of: `263`, or `262 of 263` where one could not be read."""
        return f"{self.n} of {self.n + len(self.failed)}" if self.failed else str(self.n)


@dataclass(frozen=True)
class Record:
    """One row: what it is, what was measured, where.

    Attributes:
        kind: `reference` for full precision, `variant`, `control`, `peer` for another program.
        tuned: role -> the runtime and options that `edgekit tune` chose here; None where the proven defaults ran.
        memory_bytes: what the manifest says that opening it takes, which a device's limit is compared with.
    """

    model: str
    recipe: str
    stand_in: str | None
    source_sha256: str
    row: str
    kind: Kind
    level: str | None
    formats: tuple[str, ...]
    part_ids: Mapping[str, str] | None
    bytes: int | None
    bits_per_weight: float | None
    tensor_types: Mapping[str, int] | None
    control: dict[str, Any] | None
    measurements: tuple[Measurement, ...]
    environment: Environment
    tuned: Mapping[str, str] | None = None
    memory_bytes: int | None = None

    def of(self, task: str) -> Measurement | None:
        """The measurement of this task."""
        return next((m for m in self.measurements if m.task == task), None)

    def metric(self, name: str) -> Estimate | None:
        """The first figure of this name among all measurements."""
        return next((m.metrics[name] for m in self.measurements if name in m.metrics), None)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses as objects, NaN and infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
