"""Folders: one a label, the images of that label in it; or the same inside of train, val and test."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Case
from edgekit.bench.datasets.missing import missing
from edgekit.bench.datasets.samples import samples
from edgekit.errors import InputError
from edgekit.inputs.labels import label_of

SPLITS = ("train", "training", "val", "valid", "validation", "test")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
        for name in [path.relative_to(root).as_posix()]
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
    return label_of(folder.name, "image").name


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    """Its images and those of the folders in it; hidden files are the system's."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


READER = Reader("folder", read_folder)
