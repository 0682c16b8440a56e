"""Images in a zip archive with an `index.csv` of file, modality, label, patient and split, read where they lie."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgekit.artifacts.manifest import printable
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.errors import InputError, UsageError
from edgekit.inputs.image import MAX_PIXELS, load

_INDEX = "index.csv"
_MAX_INDEX_BYTES = 64_000_000
# What reading a damaged or an unusual archive raises; RuntimeError: encrypted, or packed in a way unknown to Python.
_DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, OSError)


def read(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Test images of one modality, at most one a patient; one that cannot be read says why.

    Raises:
        InputError: the archive or its index is missing or damaged.
    """
    if source.file is None or data is None:
        raise UsageError(f"the dataset {source.name}: file: none is named for its reader {source.reader!r}")
    path = data / source.file
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy=f"give the folder that holds {source.file} as --data")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_INDEX).file_size > _MAX_INDEX_BYTES:
                raise InputError(f"{path}: {_INDEX} is too large", allowed=f"at most {_MAX_INDEX_BYTES} bytes")
            index = io.StringIO(archive.read(_INDEX).decode("utf-8"), newline="")
            rows = [
                row
                for row in csv.DictReader(index)
                if row["split"] == "test" and row["modality"] == source.modality
            ]
            order = np.random.default_rng(seed).permutation(len(rows))
            picked = _one_per_patient([rows[i] for i in order])[:limit]
            return tuple(_sample(archive, row) for row in picked)
    except (*_DAMAGED, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged or not what it should be: {error}", remedy="copy the file again") from error


def _one_per_patient(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row["patient"] and row["patient"] in seen:
            continue
        seen.add(row["patient"])
        kept.append(row)
    return kept


def _sample(archive: zipfile.ZipFile, row: dict[str, str]) -> Sample:
    name, patient = row["file"], row["patient"] or row["file"]
    try:
        return Sample(row["label"], patient, _image(archive, name))
    except InputError as error:
        return Sample(row["label"], patient, problem=error.message)


def _image(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """One greyscale image; its declared sizes are checked before anything is unpacked or decoded.

    Raises:
        InputError: it is missing, damaged, or of a size that no model is shown.
    """
    where, said = Path(str(archive.filename)).name, printable(name)
    try:
        if archive.getinfo(name).file_size > MAX_PIXELS:
            raise InputError(f"{where}: {said} unpacks to {archive.getinfo(name).file_size} bytes")
        image = Image.open(io.BytesIO(archive.read(name)))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{where}: {said} has {image.width} x {image.height} pixels")
        grey = np.asarray(image.convert("L"))
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: {said} is no image") from error
    except (*_DAMAGED, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's decoders raise these
        raise InputError(f"{where}: damaged or not what it should be: {said}: {printable(error)}") from error
    load(grey)
    return grey


READER = Reader("indexed-archive", read)
