"""Files under names that are not UTF-8, for libraries that know no others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import ArtifactError


@contextmanager
def in_utf8(path: Path) -> Iterator[str]:
    """A name in UTF-8 under which a file is found, and what lies beside it, until the end.

    Raises:
        ArtifactError: its name is not UTF-8, or the system gives it no other.
    """
    if _is_utf8(path):
        yield str(path)
        return
    if not _is_utf8(Path(path.name)) or sys.platform != "linux":
        raise ArtifactError(f"{path}: a name that is not UTF-8", remedy="give it another name")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
