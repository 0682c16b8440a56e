"""Data sets by name: one TOML file each, read by one of the modules here; a module that is added is found.

A user's own folder or table needs no file: it is a `DatasetSource` that `edgekit.bench.own` makes.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts import find
from edgekit.artifacts.discovery import values
from edgekit.artifacts.files import sha256_file
from edgekit.artifacts.validation import validated
from edgekit.bench.datasets import hub
from edgekit.bench.datasets.base import Dataset, DatasetSource, Reader, Sample
from edgekit.bench.datasets.missing import is_here, missing
from edgekit.errors import InputError, UsageError
from edgekit.inputs.labels import MODALITIES

__all__ = [
    "Dataset",
    "DatasetSource",
    "Reader",
    "Sample",
    "attribution",
    "fetch",
    "is_here",
    "load",
    "missing",
    "source",
]


def source(name: str | DatasetSource) -> DatasetSource:
    """The source of this name, checked; one that is no name is what it is.

    Raises:
        UsageError: there is none, or its file is wrong; the message names the key.
    """
    if isinstance(name, DatasetSource):
        return name
    path = find.find("benchmarks/datasets", name)
    data = {"name": path.stem, **find.load("benchmarks/datasets", name)}
    remedy = f"correct {path}; benchmarks/README.md says what each key means"
    stated = validated(DatasetSource, data, f"dataset {path.stem}", UsageError, remedy=remedy)
    stated.check_place()
    listed = stated.labels or stated.findings or stated.columns.question or stated.boxes or stated.columns.answer
    if stated.modality not in (None, *MODALITIES) and not listed:
        allowed = f"{', '.join(MODALITIES)}; none for texts; another one where labels, questions or findings are listed"
        raise UsageError(
            f"dataset {stated.name}: modality: there are no labels of {stated.modality!r}", allowed=allowed
        )
    _reader(stated)
    return stated


def load(name: str | DatasetSource, limit: int, seed: int, data: Path | None) -> Dataset:
    """Up to `limit` samples of a data set, the same ones for the same seed.

    Args:
        name: or the source itself, of a user's own data.
        data: the user's folder of real data.

    Raises:
        UsageError: there is no such data set, or it needs a data folder and none was given.
        InputError: its file is missing or damaged, holds none of its samples or none that can be read, rows that
            cannot be used, or labels that nobody knows.
    """
    stated = source(name)
    if not is_here(stated, data):
        raise missing(stated, data)
    samples = _reader(stated).read(stated, limit, seed, data)
    if not samples:
        raise InputError(
            f"the dataset {stated.name}: {stated.file or stated.reader} holds nothing of {stated.modality or 'it'}"
        )
    unread = tuple(sample for sample in samples if sample.problem is not None)
    loaded = Dataset(stated, tuple(sample for sample in samples if sample.problem is None), unread)
    one_label = (stated.labels or stated.modality in MODALITIES) and not (stated.findings or stated.boxes)
    labels = [label.name for label in loaded.labels] if one_label else []
    for sample in samples:
        known = sample.options or (labels if not sample.question else [])
        if known and sample.truth not in known:
            raise InputError(
                f"the dataset {stated.name}: the label {sample.truth!r:.80} is unknown", allowed=", ".join(known)
            )
    if not loaded.samples:
        first = unread[0].problem
        raise InputError(f"the dataset {stated.name}: none of {len(unread)} can be read, the first: {first}")
    return loaded


def fetch(stated: DatasetSource) -> None:
    """Download a data set of the hub. Raises HubError where it cannot be had."""
    if stated.hub is not None:
        hub.fetch(stated.hub)


def attribution(name: str | DatasetSource, data: Path | None) -> dict[str, str]:
    """Whose data it is, as records and reports say it: the published set's only where the user's file is that set's.

    Args:
        data: the user's folder of real data.

    Raises:
        InputError: its file is not there.
    """
    stated = source(name)
    said = {key: getattr(stated, key) for key in ("name", "title", "citation", "license", "note")}
    path = stated.located(data)
    if path is None and stated.hub is not None and is_here(stated, data):
        where = "/".join(filter(None, (stated.hub.id, stated.hub.config, stated.hub.split)))
        return {**said, "hub": where, "published": "not stated"}
    if stated.file is None or (data is None and path is None):
        return {**said, "published": "yes"}
    if path is None:
        raise missing(stated, data)
    if path.is_dir():
        return {**said, "published": "not stated"}
    found = sha256_file(path)
    said["file_sha256"] = found
    if stated.sha256 is None:
        return {**said, "published": "not stated"}
    if found == stated.sha256:
        return {**said, "published": "yes"}
    return {
        **said,
        "published": "no",
        "title": f"not the published set ({stated.title})",
        "citation": "origin unknown",
        "license": "unknown",
        "note": f"the SHA-256 of {path.name} begins {found[:16]}, that of the published set {stated.sha256[:16]}",
    }


def _reader(stated: DatasetSource) -> Reader:
    readers: dict[str, Reader] = {reader.name: reader for reader in values(__name__, "READER")}
    if stated.reader not in readers:
        raise UsageError(f"dataset {stated.name}: reader: {stated.reader!r} is unknown", allowed=", ".join(readers))
    return readers[stated.reader]
