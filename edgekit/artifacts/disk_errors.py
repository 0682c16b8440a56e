"""What the file system refuses, as one typed error that names the place: a full disk, a quota, permissions, damage.

Errors of opening and renaming name their file, those of writing do not, so whoever writes to a place of its own says
`named`; and who is called from outside says `file_errors`, with the place that all the rest is about.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import ArtifactError, NoSpaceError

NO_SPACE = {
    errno.ENOSPC: "no space left on the disk",
    errno.EFBIG: "no space left on the disk for a file of this size",
    errno.EDQUOT: "no space left in the quota of this disk",
}
_REMEDIES = {
    errno.EROFS: "the disk is mounted read-only: choose another place",
    errno.EIO: "the disk may be failing: look at the system's log, and choose another one",
}


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors of the file system that name no file name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def file_errors(where: Path, again: str = "make room there and run the same command again") -> Iterator[None]:
    """Turn what the file system refuses into edgekit's errors.

    Args:
        where: what an error that names no file is about.
        again: what to do when that disk is full.

    Raises:
        NoSpaceError: a disk or a quota is full.
        ArtifactError: the file system refused something else.
    """
    try:
        yield
    except ConnectionError:  # of a pipe or a socket; whoever reads our output is gone
        raise
    except OSError as error:
        raise typed(error, where, again) from error


def typed(error: OSError, where: Path | None = None, again: str = "make room there and try again") -> ArtifactError:
    """One error of the file system as edgekit's; see `file_errors`."""
    said = error.filename
    place = os.fsdecode(said) if isinstance(said, str | bytes | os.PathLike) else where
    message = NO_SPACE.get(error.errno or 0) or error.strerror or str(error)
    message = f"{place}: {message}" if place is not None else message
    if error.errno not in NO_SPACE:
        remedy = _REMEDIES.get(error.errno or 0, "check the path, its permissions and free space")
        return ArtifactError(message, remedy=remedy)
    if place is not None and _is_temporary(Path(place), where):
        again = "make room there, or name another folder for temporary files in $TMPDIR, and run the same command again"
    return NoSpaceError(message, remedy=again)


def _is_temporary(place: Path, where: Path | None) -> bool:
    """Whether a file is a temporary one, and not what the work is about, which may lie in the same folder."""
    try:
        folder = Path(tempfile.gettempdir()).absolute()
    except FileNotFoundError:  # there is none
        return False

    def entry(path: Path) -> tuple[str, ...] | None:
        """The one of the folder's entries that a path lies in; the folder itself has none."""
        return path.absolute().relative_to(folder).parts[:1] if path.absolute().is_relative_to(folder) else None

    return entry(place) is not None and (where is None or entry(place) != entry(where))
