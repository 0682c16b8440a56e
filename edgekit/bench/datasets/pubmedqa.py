"""PubMedQA's labelled questions as their authors published them: an object by PubMed's ids, the test ids in a file."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.documents import read_json
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Reading, cases
from edgekit.bench.datasets.rows import Row, read
from edgekit.bench.datasets.samples import samples
from edgekit.bench.datasets.table import read_table
from edgekit.errors import InputError

_TEST = ("pubmedqa_test_ground_truth.json", "test_ground_truth.json")


def read_pubmedqa(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` of the 500 test questions.

    Raises:
        UsageError, InputError: a file is missing or damaged, or says another answer than the other one.
    """
    path = source.located(data)
    if path is None:
        return read_table(source, limit, seed, data)  # from the hub, or what is missing
    test = next((path.parent / name for name in _TEST if (path.parent / name).is_file()), None)
    if test is None:
        remedy = f"the ids of the test split: {source.to_get}"
        raise InputError(f"{path.parent / _TEST[0]} does not exist", remedy=remedy)
    answers = read_json(test, InputError)
    rows = read(path)
    asked = {row.text("key"): row for row in rows}
    for pmid, answer in answers.items():
        if pmid not in asked or asked[pmid].text("final_decision") != answer:
            raise InputError(f"{test.name}: {pmid}: {path.name} does not have this question and answer")
    of_test = {True: "test", False: "train"}
    split = [Row(row.place, {**row.values, "split": of_test[key in answers]}) for key, row in asked.items()]
    return samples(cases(split, Reading.of_file(source, None), path.name), source, limit, seed, path.name)


READER = Reader("pubmedqa", read_pubmedqa)
