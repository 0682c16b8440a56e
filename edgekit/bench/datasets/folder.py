"""Folders: one a label, the images of that label in it; or the same inside of train, val and test."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.documents import is_file
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.bench.datasets.cases import Case
from edgekit.bench.datasets.missing import missing
from edgekit.bench.datasets.samples import samples
from edgekit.errors import InputError
from edgekit.inputs.labels import label_of
from edgekit.terminal import printable, stripped_line

SPLITS = ("train", "training", "val", "valid", "validation", "test")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
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
    files = [path for _, folder in _label_folders(root) for path in _files(folder)]
    others = [path.suffix.lower() for path in files if path.suffix.lower() not in _SUFFIXES]
    if not others:
        return ""
    endings = sorted({stripped_line(ending, 20) or "none" for ending in others})
    more = ", ..." if len(endings) > _MOST_ENDINGS else ""
    files_were = "file with another ending was" if len(others) == 1 else "files with other endings were"
    return f"{len(others)} {files_were} not read: {', '.join(endings[:_MOST_ENDINGS])}{more}"


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
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    """Its images and those of the folders in it."""
    return [path for path in _files(folder) if path.suffix.lower() in _SUFFIXES]


def _files(folder: Path) -> list[Path]:
    """Its files and those of the folders in it; hidden ones are the system's."""
    return sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and is_file(path))


READER = Reader("folder", read_folder)
