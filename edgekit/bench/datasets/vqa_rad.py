"""VQA-RAD as its authors published it, with the split by image that Google published beside it."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Reading, cases
from edgekit.bench.datasets.missing import missing
from edgekit.bench.datasets.rows import Row, read
from edgekit.bench.datasets.samples import samples
from edgekit.errors import InputError

_SPLIT = "vqa_rad_google_split.tsv"


def read_vqa_rad(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` questions of the test split.

    Raises:
        UsageError, InputError: a file is missing or damaged, or a question has no split.
    """
    path = source.located(data)
    if path is None:
        raise missing(source, data)
    if not (path.parent / _SPLIT).is_file():
        url = "https://github.com/Google-Health/google-health"
        raise InputError(f"{path.parent / _SPLIT} does not exist", remedy=f"Google's split, from {url}")
    splits = {row.text("QID_unique"): row.text("SPLIT_BALANCED") for row in read(path.parent / _SPLIT)}
    # One id is a text among numbers, two answer types end in a space, and some answers are numbers.
    rows = [Row(row.place, {**row.values, "split": splits.get(row.text("qid"), "")}, row.problem) for row in read(path)]
    if without := [row.place for row in rows if not row.text("split")]:
        raise InputError(f"{path.name}: {len(without)} questions have no split in {_SPLIT}, the first: {without[0]}")
    return samples(cases(rows, Reading.of_file(source, path), path.name), source, limit, seed, path.name)


READER = Reader("vqa-rad", read_vqa_rad)
