"""Temporary files: small ones in the system's folder, large ones where the caller says.

An error names the folder that is full, which is seldom the one that a command writes to. Nothing is left when the work
ends, fails, or is interrupted; `remove_all` is for who ends the process without unwinding it. What a killed process
left is removed by the next one that makes a folder there.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.disk_errors import NO_SPACE, named, typed
from edgekit.artifacts.folders import clear, held

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_PREFIX = "edgekit-"
_folders: set[Path] = set()
_cleared: set[Path] = set()  # by this process: places are looked through once


def system_folder() -> Path:
    """The system's folder for temporary files: $TMPDIR, or what is usual here.

    Raises:
        OSError: none can be written to, or all are full; it names $TMPDIR.
    """
    with named(Path("$TMPDIR")):
        return Path(tempfile.gettempdir())


@contextmanager
def temporary_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder of this process's own that is removed at the end, with all that is in it.

    Args:
        purpose: a word for its name.
        parent: where it is made, for what may be large; the system's folder for None.

    Raises:
        NoSpaceError: it is full; the message names it.
        OSError: it cannot be made.
    """
    with _named(parent):
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        place = parent or system_folder()
        _clear(place)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=place))
        _folders.add(folder)
        try:
            with held(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _folders.discard(folder)


def array_in_a_file(shape: tuple[int, ...], parent: Path | None = None) -> NDArray[np.float32]:
    """A float32 array in a file without a name, which vanishes with it.

    Args:
        parent: the folder whose disk it lies on; the system's for None.

    Raises:
        NoSpaceError: it does not fit there.
    """
    import numpy as np

    with _named(parent), tempfile.TemporaryFile(dir=parent or system_folder()) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a signal at the first write
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * 4)
        return np.memmap(file, np.float32, "w+", shape=shape)


def remove_all() -> None:
    """Remove every folder that is in use, for a process that ends now."""
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def _clear(place: Path) -> None:
    if os.name != "nt" and place not in _cleared:
        _cleared.add(place)
        for left in place.glob(f"{_PREFIX}*"):
            clear(left)


@contextmanager
def _named(parent: Path | None) -> Iterator[None]:
    """A full disk as an error that names the folder on it, where it names no other; $TMPDIR is about the system's."""
    try:
        with named(parent or system_folder()):
            yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise typed(error, parent) from error
