"""Tables: one row a sample, columns named by the data set's file; from the user's folder, or from the hub's cache."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets import hub
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Reading, cases
from edgekit.bench.datasets.missing import missing
from edgekit.bench.datasets.rows import Row, read
from edgekit.bench.datasets.samples import samples


def read_table(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` rows of the split that is read.

    Raises:
        UsageError: the data set is not here, or lacks a column that its file names.
        InputError: rows that cannot be used, ids that stand twice, a split that leaks.
    """
    rows, reading, where = _rows(source, data)
    return samples(cases(rows, reading, where), source, limit, seed, where)


def _rows(source: DatasetSource, data: Path | None) -> tuple[list[Row], Reading, str]:
    path = source.located(data)
    if path is not None:
        return read(path, source.header), Reading.of_file(source, path), path.name
    if source.hub is not None and (folder := hub.cached(source.hub)):
        return hub.rows(source.hub, folder), Reading.of_hub(source), source.hub.id
    raise missing(source, data)


READER = Reader("table", read_table)
