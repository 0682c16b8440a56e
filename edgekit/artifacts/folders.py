"""Folders that appear whole or not at all: locked, written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.artifacts.files import rename
from edgekit.errors import ArtifactError, UsageError

STAMP = ".stamp"  # whose work an unfinished folder holds, where that can be gone on with


def staging_of(folder: Path) -> Path:
    """Where a folder is written before it takes its name: beside it, on the same disk."""
    folder = folder.absolute()
    return folder.parent / f".{folder.name}.partial"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder, made where it is not there, that no other process may write to until the end.

    A killed process lets go of it, and it may be renamed or removed meanwhile.

    Raises:
        ArtifactError: another process is at work there, or it is a link.
    """
    import fcntl  # not on Windows, which only uses artifacts

    if folder.is_symlink():  # it would empty, or fill, a folder of somebody else's choice
        raise ArtifactError(f"{folder}: is a link", remedy="remove it")
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArtifactError(
                    f"{folder}: another command is writing here", remedy="wait for it, or choose another folder"
                ) from error
            if _is(handle, folder):
                yield
                return
            # Its owner renamed or removed it between the two calls.
        finally:
            os.close(handle)


def _is(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A place to write to that becomes `folder` at the end; after an error nothing is left.

    Raises:
        UsageError: the folder is there and holds something.
        ArtifactError: another command is at work, or an interrupted export waits to be gone on with.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty", allowed="a new or an empty folder")
    staging = staging_of(folder)
    with locked(staging):
        if (staging / STAMP).is_file():
            raise ArtifactError(
                f"{staging}: an interrupted export can be gone on with",
                remedy="run that export again, choose another folder, or remove this one",
            )
        empty(staging)
        try:
            yield staging
            if folder.exists():
                folder.rmdir()
            rename(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
