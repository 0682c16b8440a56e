"""Folders that appear whole or not at all: locked, written beside their place, then renamed.

What is not finished lies in a folder `.NAME.partial` beside NAME, which edgekit made: a marker in it says so. Without
the marker a folder that holds anything is somebody else's, and a link is never followed, so nothing of others is
emptied or filled.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.files import flock, make_folder, rename, sync, sync_folder
from edgekit.artifacts.holders import holders
from edgekit.errors import ArtifactError, UsageError

MARKER = ".edgekit-unfinished"  # in a folder that edgekit made, and may change and remove
_TEMPORARY = ".edgekit-temporary"  # in a folder that its process alone uses
STAMP = ".stamp"  # whose work an unfinished folder holds, where that can be gone on with
_WHOLE = ".whole"  # in an unfinished folder: what takes its name in the next step

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def staging_of(folder: Path) -> Path:
    """Where a folder is written before it takes its name: beside it, on the same disk."""
    folder = folder.absolute()
    return folder.parent / f".{folder.name}.partial"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """A folder, made where it is not there, that no other process may write to until the end; yields its handle.

    A killed process lets go of it, and it may be renamed or removed meanwhile.

    Raises:
        ArtifactError: another process is at work there, or it is a link or no folder.
    """
    while True:
        handle = _open(folder, make=True)
        try:
            with named(folder):
                free = flock(handle, wait=False)
            if not free:
                raise ArtifactError(
                    f"{folder}: another command is writing here: {holders(handle)}",
                    remedy="wait for it, or choose another folder",
                )
            if _is(handle, folder):
                yield handle
                return
            # Its owner renamed or removed it between the two calls.
        finally:
            os.close(handle)


@contextmanager
def updating(folder: Path) -> Iterator[None]:
    """A folder whose manifest is read and replaced: others wait, so that no update is lost. Held for moments only.

    It is the folder that is locked, which stays when the files in it are replaced. One that is not there has no
    manifest to lose.
    """
    folder = folder.resolve()
    if os.name == "nt" or not folder.is_dir():
        yield
        return
    handle = _open(folder)
    try:
        with suppress(OSError):  # a file system without locks: nobody else can be seen there
            flock(handle, wait=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`locked`, and edgekit's own: one that it made before, or that is new or empty, and gets the marker.

    Raises:
        ArtifactError: it holds something, and nothing says that edgekit put it there; or as `locked`.
    """
    if os.name == "nt":  # no handles of folders there; and none is emptied
        make_folder(folder)
        yield
        return
    with locked(folder) as handle:
        if not _is_ours(handle, folder):
            if _names(handle):
                raise _of_others(folder)
            _mark(handle, folder, MARKER)
            os.fsync(handle)
        elif (stranger := os.fstat(handle).st_uid) not in (os.geteuid(), folder.resolve().parent.stat().st_uid):
            # Whoever may write beside it made it, with whatever in it, for us to go on with or to empty.
            raise ArtifactError(f"{folder}: is of another user, {stranger}", remedy="remove it, or choose another")
        yield


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A new folder, marked as this process's own: `clear` removes it, but not before that ends or leaves here.

    Raises:
        OSError: the disk is full.
    """
    if os.name == "nt":
        yield
        return
    handle = _open(folder)
    try:
        with suppress(OSError):  # a file system without locks: see `clear`
            flock(handle, wait=True)
        _mark(handle, folder, _TEMPORARY)
        yield
    finally:
        os.close(handle)


def clear(folder: Path) -> None:
    """Remove a folder that was `held` by a process that was killed; one of a live process, or of others, stays.

    Without locks nobody can tell them apart, and all stay.
    """
    with suppress(OSError, ArtifactError):
        handle = _open(folder)
        try:
            marker = os.stat(_TEMPORARY, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISREG(marker.st_mode) and marker.st_uid == os.getuid() and flock(handle, wait=False):
                shutil.rmtree(folder)
        finally:
            os.close(handle)


def check_place(folder: Path) -> None:
    """Raise UsageError for the current folder: what appears there takes its place, and leaves the user in none."""
    if folder.exists() and folder.samefile(Path.cwd()) and not any(folder.iterdir()):
        raise UsageError(
            f"{folder}: is the current folder, which would be replaced", remedy="name a folder that is not there yet"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A place to write to that becomes `folder` at the end; after an error nothing is left.

    Raises:
        UsageError: the folder is there and holds something.
        ArtifactError: another command is at work, an interrupted export waits to be gone on with, or what has the
            place's name is somebody else's.
    """
    check_place(folder)
    folder = folder.resolve()
    staging = staging_of(folder)
    if not staging.is_dir():  # else a killed run may have left it behind a folder that it had finished
        check_free(folder)
    made = [place for place in staging.parents if not place.exists()]
    with claimed(staging):
        if (staging / STAMP).is_file():
            raise ArtifactError(
                f"{staging}: an interrupted export can be gone on with",
                remedy="run that export again, choose another folder, or remove this one",
            )
        try:
            check_free(folder)
            empty(staging)
            yield staging
            files = [path for path in staging.rglob("*") if path.is_file() and path != staging / MARKER]
            appear(staging, [path.relative_to(staging).as_posix() for path in files], folder)
        except BaseException:
            remove(staging, made)
            raise
        remove(staging)


def check_free(folder: Path) -> None:
    """Raise UsageError for a place that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty", allowed="a new or an empty folder")


def appear(staging: Path, names: Collection[str], folder: Path) -> None:
    """Make a folder of these files of a claimed one: all of it on the disk, then its name, in one step.

    Raises:
        OSError: the folder is there and holds something, or the disk failed.
    """
    whole = staging / _WHOLE
    whole.mkdir()
    for name in names:
        sync(staging / name)
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(whole / name)
    for place in [whole, *(path for path in whole.rglob("*") if path.is_dir())]:
        sync_folder(place)
    rename(whole, folder)


def take_back(staging: Path) -> None:
    """Undo what `appear` had begun when its process was killed."""
    whole = staging / _WHOLE
    if not whole.is_symlink() and whole.is_dir():
        for path in [path for path in whole.rglob("*") if not path.is_dir()]:
            path.replace(staging / path.relative_to(whole))
        shutil.rmtree(whole)


def empty(folder: Path) -> None:
    """Remove everything in a claimed folder but its marker.

    Raises:
        ArtifactError: it is a link, or no longer edgekit's.
    """
    handle = _open(folder)
    try:
        if not _is_ours(handle, folder):
            raise _of_others(folder)
        for name in _names(handle) - {MARKER}:
            with _in(folder):
                if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=handle)  # follows no link either
                else:
                    os.unlink(name, dir_fd=handle)
    finally:
        os.close(handle)


def remove(folder: Path, made: Collection[Path] = ()) -> None:
    """Remove a claimed folder, and those of the folders above it that were made for it and are empty.

    What cannot be removed stays: the marker goes last, so that the next run can.
    """
    with suppress(OSError, ArtifactError):
        empty(folder)
        (folder / MARKER).unlink()
        folder.rmdir()
    for place in made:
        with suppress(OSError):
            place.rmdir()


def _open(folder: Path, *, make: bool = False) -> int:
    try:
        if make and not folder.is_symlink():
            make_folder(folder)
        return os.open(folder, _FOLDER)
    except OSError as error:
        if folder.is_symlink():  # it would empty, or fill, a folder of somebody else's choice
            raise ArtifactError(f"{folder}: is a link", remedy="remove it") from error
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{folder}: is no folder", remedy="move it away, or choose another place") from error
        raise


def _mark(handle: int, folder: Path, name: str) -> None:
    with _in(folder):
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _FILE, 0o666, dir_fd=handle))


def _names(handle: int) -> set[str]:
    with os.scandir(handle) as entries:
        return {entry.name for entry in entries}


def _is(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _is_ours(handle: int, folder: Path) -> bool:
    """Whether the marker is in a folder: a file of its own, no link."""
    try:
        with _in(folder):
            return stat.S_ISREG(os.stat(MARKER, dir_fd=handle, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _of_others(folder: Path) -> ArtifactError:
    return ArtifactError(
        f"{folder}: holds files that edgekit did not put there",
        remedy="look at them, then move them away or remove them; or choose another folder",
    )


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Errors about a name relative to a handle name the folder."""
    try:
        yield
    except OSError as error:
        error.filename = str(folder)
        raise
