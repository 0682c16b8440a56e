"""Images in a zip archive with an `index.csv` of file, modality, label, patient and split, read where they lie."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import some
from edgekit.bench.datasets.missing import missing
from edgekit.errors import InputError, UsageError
from edgekit.inputs.image import MAX_PIXELS, say
from edgekit.inputs.image import read as read_picture
from edgekit.terminal import stripped_line

_INDEX = "index.csv"
_MAX_INDEX_BYTES = 64_000_000
# What reading a damaged or an unusual archive raises; RuntimeError: encrypted, or packed in a way unknown to Python.
_DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, OSError)


def read(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Test images of one modality, at most one a patient; one that cannot be read says why.

    Raises:
        InputError: the archive or its index is missing or damaged.
    """
    if source.file is None:
        raise UsageError(f"the dataset {source.name}: file: none is named for its reader {source.reader!r}")
    path = source.located(data)
    if path is None:
        raise missing(source, data)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_INDEX).file_size > _MAX_INDEX_BYTES:
                raise InputError(f"{path}: {_INDEX} is too large", allowed=f"at most {_MAX_INDEX_BYTES} bytes")
            index = io.StringIO(archive.read(_INDEX).decode("utf-8"), newline="")
            every = [row for row in csv.DictReader(index) if row["modality"] == source.modality]
            rows = _of_split(archive, every, source)
            order = np.random.default_rng(seed).permutation(len(rows))
            picked = _one_per_patient([rows[i] for i in order])[:limit]
            read_samples = [_sample(archive, row) for row in picked]
    except (*_DAMAGED, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged or not what it should be: {error}", remedy="copy the file again") from error
    if odd := [(row["file"], known) for row, (_, known) in zip(picked, read_samples, strict=True) if known]:
        say([f"{path}: {len(odd)} of {len(picked)} images are odd, as is {odd[0][0]}: {odd[0][1][0]}"])
    return tuple(sample for sample, _ in read_samples)


def _of_split(archive: zipfile.ZipFile, rows: list[dict[str, str]], source: DatasetSource) -> list[dict[str, str]]:
    """The rows of the split that is read, without images and patients that another split has, too.

    Images with the same size and checksum are the same: nobody forges one to be left out.

    Raises:
        InputError: there are such rows, and its file does not say that they are left out.
    """
    entries = {entry.filename: (entry.CRC, entry.file_size) for entry in archive.infolist()}
    others = [row for row in rows if row["split"] != source.split]
    patients = {row["patient"] for row in others if row["patient"]}
    images = {entries[row["file"]] for row in others if row["file"] in entries}
    wanted = [row for row in rows if row["split"] == source.split]
    leaked = [row for row in wanted if row["patient"] in patients or entries.get(row["file"]) in images]
    if leaked and source.leaks == "refused":
        raise InputError(
            f"{archive.filename}: {len(leaked)} images of the split {source.split} are in another, or their patient is",
            items=some([row["file"] for row in leaked]),
            remedy='leaks = "left out" in the data set\'s file measures without them',
        )
    left_out = {row["file"] for row in leaked}
    return [row for row in wanted if row["file"] not in left_out]


def _one_per_patient(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row["patient"] and row["patient"] in seen:
            continue
        seen.add(row["patient"])
        kept.append(row)
    return kept


def _sample(archive: zipfile.ZipFile, row: Mapping[str, str]) -> tuple[Sample, tuple[str, ...]]:
    """One image, or why there is none; and what to know of it."""
    name, patient = row["file"], row["patient"] or row["file"]
    try:
        image, known = _image(archive, name)
    except InputError as error:
        return Sample(row["label"], patient, problem=error.message, id=name), ()
    return Sample(row["label"], patient, image, id=name), known


def _image(archive: zipfile.ZipFile, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """One greyscale image, and what to know of it; its sizes are checked before anything is unpacked or decoded.

    Raises:
        InputError: it is missing, damaged, or of a size that no model is shown.
    """
    where, said = Path(str(archive.filename)).name, stripped_line(name)
    try:
        picture = read_picture(_unpacked(archive, name))
    except InputError as error:
        message = f"{where}: {said}: {error.message.removeprefix('the image: ')}"
        raise InputError(message, allowed=error.allowed, remedy=error.remedy) from error
    except _DAMAGED as error:
        raise InputError(f"{where}: damaged or not what it should be: {said}: {stripped_line(error)}") from error
    return np.asarray(picture.image.convert("L")), picture.warnings


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MAX_PIXELS:
        raise InputError(f"unpacks to {size} bytes", allowed=f"at most {MAX_PIXELS}")
    return archive.read(name)


READER = Reader("indexed-archive", read)
