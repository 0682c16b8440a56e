"""Images in a zip archive with an `index.csv` of file, modality, label, patient and split, read where they lie."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.errors import InputError, UsageError
from edgekit.inputs.image import MAX_PIXELS, say
from edgekit.inputs.image import read as read_picture


def read(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Test images of one modality, at most one a patient.

    Raises:
        InputError: the archive is missing or damaged.
    """
    if source.file is None or data is None:
        raise UsageError(f"the dataset {source.name}: file: none is named for its reader {source.reader!r}")
    path = data / source.file
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy=f"give the folder that holds {source.file} as --data")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("index.csv") as index:
            rows = [
                row
                for row in csv.DictReader(io.TextIOWrapper(index, encoding="utf-8"))
                if row["split"] == "test" and row["modality"] == source.modality
            ]
            order = np.random.default_rng(seed).permutation(len(rows))
            picked = _one_per_patient([rows[i] for i in order])[:limit]
            images, known = zip(*(_image(archive, row["file"]) for row in picked), strict=True) if picked else ((), ())
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: damaged or not what it should be: {error}", remedy="copy the file again") from error
    if odd := [(row["file"], said) for row, said in zip(picked, known, strict=True) if said]:
        say([f"{path}: {len(odd)} of {len(picked)} images are odd, as is {odd[0][0]}: {odd[0][1][0]}"])
    return tuple(
        Sample(row["label"], row["patient"] or row["file"], image) for row, image in zip(picked, images, strict=True)
    )


def _one_per_patient(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row["patient"] and row["patient"] in seen:
            continue
        seen.add(row["patient"])
        kept.append(row)
    return kept


def _image(archive: zipfile.ZipFile, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """One greyscale image, and what to know of it; its sizes are checked before anything is unpacked or decoded."""
    if archive.getinfo(name).file_size > MAX_PIXELS:
        raise InputError(f"{archive.filename}: {name} unpacks to {archive.getinfo(name).file_size} bytes")
    try:
        picture = read_picture(archive.read(name))
    except InputError as error:
        message = f"{archive.filename}: {name}: {error.message}"
        raise InputError(message, allowed=error.allowed, remedy=error.remedy) from error
    return np.asarray(picture.image.convert("L")), picture.warnings


READER = Reader("indexed-archive", read)
