"""Drawn radiographs: they need no data, and their seed is their identity."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets.base import DatasetSource, Sample
from edgekit.inputs import phantoms
from edgekit.inputs.labels import PHANTOM


def draw(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """`limit` phantoms of a seed, each a patient of its own."""
    drawn = phantoms.generate(seed, limit)
    return tuple(Sample(phantom.finding, str(i), phantom.image) for i, phantom in enumerate(drawn))


SOURCES = (
    DatasetSource(
        name="phantoms",
        title="radiograph-like phantoms, drawn by edgekit",
        modality=PHANTOM,
        citation="edgekit.inputs.phantoms; drawn from a seed that nothing was trained on",
        license="as edgekit itself",
        note="drawn, not measured: no statement about patients",
        file=None,
        load=draw,
    ),
)
