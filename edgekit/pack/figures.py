"""What was measured of the packed levels, as a model card and a list of materials show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.artifacts.manifest import Manifest
from edgekit.bench.kinds import kinds, of_machine
from edgekit.bench.records import Measurement, Record
from edgekit.bench.report.columns import difference, head_of, text_of
from edgekit.metrics import Estimate


@dataclass(frozen=True)
class Figure:
    """What one task says of one level.

    Attributes:
        name: of the figure, with its unit.
        value, full_precision: as reports write them, with their intervals; `-` where nothing was measured.
        difference: of a score to full precision's on the same items, in percentage points.
        counted: samples.
        machine: where a time was measured; empty for what does not depend on it.
    """

    level: str
    task: str
    name: str
    estimate: Estimate
    value: str
    full_precision: str
    difference: str
    counted: str
    machine: str


def figures(manifest: Manifest, records: Sequence[Record]) -> list[Figure]:
    """The figures of a manifest's levels, of the very parts that it names."""
    full = next((record for record in records if record.kind == "reference"), None)
    found = []
    for level, parts in manifest.variants.items():
        for record in records:
            if record.kind == "variant" and record.level == level and dict(record.part_ids or {}) == dict(parts):
                found += _of(level, record, full)
    return found


def _of(level: str, record: Record, full: Record | None) -> list[Figure]:
    found = []
    for measured in record.measurements:
        here = record.environment
        machine = f"{here.cpu}, {here.cores} cores" if of_machine(measured.kind) else ""
        of_full = full.of(measured.task) if full else None
        for name in [] if measured.error else _shown(measured):
            found.append(
                Figure(
                    level=level,
                    task=measured.title,
                    name=head_of(measured.kind, name, scored=True),
                    estimate=measured.metrics[name],
                    value=text_of(measured.kind, name, measured.metrics[name], scored=True),
                    full_precision=text_of(
                        measured.kind, name, of_full.metrics.get(name) if of_full else None, scored=True
                    ),
                    difference=difference(measured),
                    counted=measured.counted,
                    machine=machine,
                )
            )
    return found


def _shown(measured: Measurement) -> list[str]:
    """The headline of a task that has one, else what its kind shows in a table: times and memory."""
    columns = kinds()[measured.kind].columns if measured.kind in kinds() else ()
    names = [measured.headline] if measured.headline else [column.figure for column in columns]
    return [name for name in names if name in measured.metrics]
