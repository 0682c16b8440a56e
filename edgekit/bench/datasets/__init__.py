"""Data sets by name: one TOML file each, read by one of the modules here; a module that is added is found."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts import find
from edgekit.artifacts.discovery import values
from edgekit.artifacts.files import sha256_file
from edgekit.artifacts.validation import validated
from edgekit.bench.datasets.base import Dataset, DatasetSource, Reader, Sample
from edgekit.errors import InputError, UsageError
from edgekit.inputs.labels import MODALITIES

__all__ = ["Dataset", "DatasetSource", "Reader", "Sample", "attribution", "load", "source"]


def source(name: str) -> DatasetSource:
    """The source of this name, checked.

    Raises:
        UsageError: there is none, or its file is wrong; the message names the key.
    """
    path = find.find("benchmarks/datasets", name)
    data = {"name": path.stem, **find.load("benchmarks/datasets", name)}
    remedy = f"correct {path}; benchmarks/README.md says what each key means"
    stated = validated(DatasetSource, data, f"dataset {path.stem}", UsageError, remedy=remedy)
    if stated.modality not in (None, *MODALITIES):
        allowed = f"{', '.join(MODALITIES)}; none for texts"
        raise UsageError(
            f"dataset {stated.name}: modality: there are no labels of {stated.modality!r}", allowed=allowed
        )
    _reader(stated)
    return stated


def load(name: str, limit: int, seed: int, data: Path | None) -> Dataset:
    """Up to `limit` samples of a data set, the same ones for the same seed.

    Args:
        data: the user's folder of real data.

    Raises:
        UsageError: there is no such data set, or it needs a data folder and none was given.
        InputError: its file is missing or damaged, holds none of its samples or none that can be read, or labels that
            nobody knows.
    """
    stated = source(name)
    if stated.file is not None and data is None:
        raise UsageError(f"the dataset {name} needs a data folder", remedy=f"--data DIR, with {stated.file} in it")
    samples = _reader(stated).read(stated, limit, seed, data)
    if not samples:
        raise InputError(
            f"the dataset {name}: {stated.file or stated.reader} holds nothing of {stated.modality or 'it'}"
        )
    unread = tuple(sample for sample in samples if sample.problem is not None)
    loaded = Dataset(stated, tuple(sample for sample in samples if sample.problem is None), unread)
    labels = [label.name for label in loaded.labels] if stated.modality else []
    for sample in samples:
        known = sample.options or labels
        if known and sample.truth not in known:
            raise InputError(f"the dataset {name}: the label {sample.truth!r:.80} is unknown", allowed=", ".join(known))
    if not loaded.samples:
        raise InputError(f"the dataset {name}: none of {len(unread)} can be read, the first: {unread[0].problem}")
    return loaded


def attribution(name: str, data: Path | None) -> dict[str, str]:
    """Whose data it is, as records and reports say it: the published set's only where the user's file is that set's.

    Args:
        data: the user's folder of real data.

    Raises:
        InputError: its file is not there.
    """
    stated = source(name)
    said = {key: getattr(stated, key) for key in ("name", "title", "citation", "license", "note")}
    if stated.file is None or data is None:
        return {**said, "published": "yes"}
    path = data / stated.file
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy=f"give the folder that holds {stated.file} as --data")
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
        "note": f"the SHA-256 of {stated.file} begins {found[:16]}, that of the published set {stated.sha256[:16]}",
    }


def _reader(stated: DatasetSource) -> Reader:
    readers: dict[str, Reader] = {reader.name: reader for reader in values(__name__, "READER")}
    if stated.reader not in readers:
        raise UsageError(f"dataset {stated.name}: reader: {stated.reader!r} is unknown", allowed=", ".join(readers))
    return readers[stated.reader]
