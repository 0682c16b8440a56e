"""Datasets by name: images with their labels, read where they lie. A new dataset is one row and a loader."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgekit.errors import InputError, UsageError
from edgekit.inputs import phantoms
from edgekit.inputs.image import MAX_PIXELS
from edgekit.inputs.labels import BRAIN, CHEST, PHANTOM, Label, in_modality

RADIOLOGY = "radiology-160.zip"


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; shown wherever one of its figures is.

    Attributes:
        modality: the kind of image, which decides the labels.
        note: what a reader must know before trusting a figure.
        file: what must lie in the user's data folder, None for a dataset that needs none.
    """

    name: str
    title: str
    modality: str
    citation: str
    license: str
    note: str
    file: str | None
    load: Callable[[Source, int, int, Path | None], Items]


@dataclass(frozen=True)
class Items:
    """Images, uint8 [height, width] each, and their labels' names."""

    images: tuple[NDArray[np.uint8], ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """The items of one task, in a fixed order."""

    source: Source
    images: tuple[NDArray[np.uint8], ...]
    truth: tuple[str, ...]
    labels: tuple[Label, ...]

    @property
    def sha256(self) -> str:
        """Identity of all images and labels."""
        digest = hashlib.sha256()
        for image, label in zip(self.images, self.truth, strict=True):
            digest.update(f"{image.shape}{label}\n".encode() + image.tobytes())
        return digest.hexdigest()


def source(name: str) -> Source:
    """The source of this name.

    Raises:
        UsageError: there is none; the message lists those that exist.
    """
    if name not in SOURCES:
        raise UsageError(f"unknown dataset {name!r}", allowed=", ".join(SOURCES))
    return SOURCES[name]


def load(name: str, limit: int, seed: int, data: Path | None) -> Dataset:
    """Up to `limit` items of a dataset, the same ones for the same seed.

    Raises:
        UsageError: there is no such dataset, or it needs a data folder and none was given.
        InputError: its file is missing or damaged.
    """
    chosen = source(name)
    items = chosen.load(chosen, limit, seed, data)
    return Dataset(chosen, items.images, items.labels, in_modality(chosen.modality))


def _phantoms(chosen: Source, limit: int, seed: int, data: Path | None) -> Items:
    drawn = list(phantoms.generate(seed, limit))
    return Items(tuple(phantom.image for phantom in drawn), tuple(phantom.finding for phantom in drawn))


def _radiology(chosen: Source, limit: int, seed: int, data: Path | None) -> Items:
    """Test images of one modality, at most one a patient, so that items are independent as the intervals assume."""
    if data is None:
        raise UsageError(f"the dataset {chosen.name} needs a data folder", remedy=f"--data DIR, with {RADIOLOGY} in it")
    path = data / RADIOLOGY
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy=f"give the folder that holds {RADIOLOGY} as --data")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("index.csv") as index:
            rows = [
                row
                for row in csv.DictReader(io.TextIOWrapper(index, encoding="utf-8"))
                if row["split"] == "test" and row["modality"] == chosen.modality
            ]
            order = np.random.default_rng(seed).permutation(len(rows))
            picked = _one_per_patient([rows[i] for i in order])[:limit]
            images = tuple(_image(archive, row["file"]) for row in picked)
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: damaged or not what it should be: {error}", remedy="copy the file again") from error
    return Items(images, tuple(row["label"] for row in picked))


def _one_per_patient(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row["patient"] and row["patient"] in seen:
            continue
        seen.add(row["patient"])
        kept.append(row)
    return kept


def _image(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """One greyscale image; its declared sizes are checked before anything is unpacked or decoded."""
    if archive.getinfo(name).file_size > MAX_PIXELS:
        raise InputError(f"{archive.filename}: {name} unpacks to {archive.getinfo(name).file_size} bytes")
    try:
        image = Image.open(io.BytesIO(archive.read(name)))
    except UnidentifiedImageError as error:
        raise InputError(f"{archive.filename}: {name} is no image") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{archive.filename}: {name} has {image.width} x {image.height} pixels")
    return np.asarray(image.convert("L"))


_ROWS = (
    Source(
        name="phantoms",
        title="radiograph-like phantoms, drawn by edgekit",
        modality=PHANTOM,
        citation="edgekit.inputs.phantoms; drawn from a seed that nothing was trained on",
        license="as edgekit itself",
        note="drawn, not measured: no statement about patients",
        file=None,
        load=_phantoms,
    ),
    Source(
        name="chest-xray",
        title="chest X-rays of children",
        modality=CHEST,
        citation="Kermany, Zhang, Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images, "
        "Mendeley Data, 10.17632/rscbjbr9sj.2",
        license="CC BY 4.0",
        note="test split by patient; at most one image a patient",
        file=RADIOLOGY,
        load=_radiology,
    ),
    Source(
        name="brain-mri",
        title="brain MRI slices",
        modality=BRAIN,
        citation="Nickparvar: Brain Tumor MRI Dataset, Kaggle",
        license="CC0 1.0",
        note="split by image, not by patient: slices of one patient may stand in training and test, so figures flatter",
        file=RADIOLOGY,
        load=_radiology,
    ),
)

SOURCES: Mapping[str, Source] = {row.name: row for row in _ROWS}
