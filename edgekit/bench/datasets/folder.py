"""Folders: one a label, the images of that label in it; or the same inside of train, val and test."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.documents import is_file
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Case
from edgekit.bench.datasets.missing import missing
from edgekit.bench.datasets.samples import samples
from edgekit.errors import InputError
from edgekit.inputs.dicom.folder import DIRECTORY, is_dicom_file
from edgekit.inputs.labels import label_of
from edgekit.terminal import printable, stripped_line

SPLITS = ("train", "training", "val", "valid", "validation", "test")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp", ".zip")
_MOST_ENDINGS = 8  # that are named


def read_folder(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` images.

    Raises:
        UsageError, InputError: the folder is not there, has no labels, or the same image under two.
    """
    root = source.located(data)
    if root is None:
        raise missing(source, data)
    return samples(cases(root), source, limit, seed, root.name)


def cases(root: Path) -> list[Case]:
    """Every image of a folder of labels.

    Raises:
        InputError: it is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no folder of images")
    return [
        Case(place=name, id=name, truth=_label(folder), image=path, split=split)
        for split, folder in _label_folders(root)
        for path in _images(folder)
        for name in [printable(path.relative_to(root).as_posix())]  # which may be no text
    ]


def labels(root: Path) -> list[str]:
    """The names of its labels.

    Raises:
        InputError: it has fewer than two folders with images.
    """
    found = sorted({_label(folder) for _, folder in _label_folders(root) if _images(folder)})
    if len(found) < 2:
        raise InputError(
            f"{root}: {len(found)} folders with images in it",
            allowed="one folder for each label, two or more, or a table with the columns file and label",
        )
    return found


def left_out(root: Path) -> str:
    """What is in its folders and is not read, in words; empty where all is."""
    inside = {path for _, folder in _label_folders(root) for path in _files(folder)}
    every = [(path, path in inside) for path in _files(root)]
    loose = sum(not labelled for path, labelled in every if _is_image(path))
    others = [path.suffix.lower() for path, _ in every if not _is_image(path)]
    endings = sorted({stripped_line(ending, 20) or "none" for ending in others})
    more = ", ..." if len(endings) > _MOST_ENDINGS else ""
    said = [f"{len(others)} {'file' if len(others) == 1 else 'files'} with other endings not read: "
            f"{', '.join(endings[:_MOST_ENDINGS])}{more}"] if others else []  # fmt: skip
    said += [f"{loose} {'image' if loose == 1 else 'images'} in no label's folder not read"] if loose else []
    return "; ".join(said)


def _label_folders(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) of every label; the split is empty where the folders do not say it."""
    inside = _folders(root)
    splits = {folder: folder.name.lower() for folder in inside if folder.name.lower() in SPLITS and _folders(folder)}
    if splits and len(splits) == len(inside):
        return [(_split(name), label) for folder, name in splits.items() for label in _folders(folder)]
    return [("", folder) for folder in inside]


def _split(name: str) -> str:
    return "train" if name.startswith("train") else "val" if name.startswith("val") else name


def _label(folder: Path) -> str:
    return label_of(printable(folder.name, lines=True), "image").name


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _images(folder: Path) -> list[Path]:
    """Its images and those of the folders in it."""
    return [path for path in _files(folder) if _is_image(path)]


def _is_image(path: Path) -> bool:
    """By its ending, or as a DICOM file or an archive of a series; what a DICOMDIR names is there by itself."""
    return path.suffix.lower() in _SUFFIXES or (is_dicom_file(path) and path.name.upper() != DIRECTORY)


def _files(folder: Path) -> list[Path]:
    """Its files and those of the folders in it; hidden ones, and those of hidden folders, are the system's."""
    every = sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and is_file(path))
    return [path for path in every if not any(map(_is_hidden, path.relative_to(folder).parts[:-1]))]


READER = Reader("folder", read_folder)
