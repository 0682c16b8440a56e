"""Questions about patients' records: a bundle of FHIR R4 is a patient, whose JSON gives questions and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from edgekit.artifacts.files import sha256_file
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.record_questions import questions
from edgekit.errors import InputError
from edgekit.inputs.fhir.reader import read as read_record


def read(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` questions about the bundles of a folder, of every topic in turn, in an order that the seed gives.

    Raises:
        InputError: the folder is missing or has no bundle, a file of it is none, or one patient is there twice.
    """
    path = source.located(data)
    if path is None:
        remedy = f"give the folder that holds it as --data: {source.to_get}"
        raise InputError(f"{source.file} does not exist", remedy=remedy)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no bundle is there", allowed="files that end in .json, one patient each")
    by_topic: dict[str, list[Sample]] = {}
    seen: dict[str, Path] = {}
    for file in files:
        patient = str(read_record(file).patient.get("id") or sha256_file(file))
        if patient in seen:
            raise InputError(f"{file}: the patient of {seen[patient].name} again", remedy="leave one of them")
        seen[patient] = file
        for sample in _samples(file):
            by_topic.setdefault(sample.topic, []).append(sample)
    rng = np.random.default_rng(seed)
    shuffled = [[found[i] for i in rng.permutation(len(found))] for _, found in sorted(by_topic.items())]
    turns = [sample for turn in zip_longest(*shuffled) for sample in turn if sample is not None]
    return tuple(turns[:limit])


def _samples(file: Path) -> Iterator[Sample]:
    digest = sha256_file(file)[:16]  # of what the questions are about; the file's name may be a person's
    try:
        asked = list(questions(json.loads(file.read_bytes())))
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise InputError(f"{file}: a resource of it is not as FHIR R4 has it: {error!r:.100}") from error
    for number, one in enumerate(asked):
        yield Sample(
            truth=one.truth,
            group=digest,
            question=one.question,
            id=f"{digest}-{number}",
            topic=one.topic,
            context="\n".join(one.others),
            file=file,
            evidence=one.evidence,
        )


READER = Reader("fhir", read)
