"""The system's cache of files, from which a model that was opened before is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def forget(paths: Iterable[Path]) -> bool:
    """Have the system forget what it cached of these files, so that they are read from the disk again.

    Pages that a process has mapped stay.

    Returns:
        whether the system can be asked to.
    """
    if not hasattr(os, "posix_fadvise"):  # not on macOS, nor on Windows
        return False
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
