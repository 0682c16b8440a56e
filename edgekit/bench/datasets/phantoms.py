"""Drawn radiographs: they need no data, and their seed is their identity."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.inputs import phantoms


def draw(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """`limit` phantoms of a seed, each a patient of its own."""
    drawn = phantoms.generate(seed, limit)
    return tuple(Sample(phantom.finding, str(i), phantom.image, id=f"{seed}-{i}") for i, phantom in enumerate(drawn))


READER = Reader("phantoms", draw)
