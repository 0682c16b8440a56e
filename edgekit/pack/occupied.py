"""Who runs from a slot: no update takes away the files of a process that is still there.

A command that runs in a slot's environment holds a shared lock on the slot's folder (flock) as long as it lives; an
update holds that lock for itself before it empties the slot. The system lets go of both, however a process ends.
Windows has no locks of folders: there, nobody is seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import flock
from edgekit.artifacts.holders import holders
from edgekit.errors import BundleError, UsageError

_STATE, _DOCUMENT = "state.json", "bundle.json"  # of `roots` and `bundle`, which import more than a start should
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def held(environment: Path | None = None) -> Iterator[None]:
    """Hold the slot that this process runs from, where it runs from one.

    Args:
        environment: the folder of its Python's environment; this process's own for None.

    Raises:
        BundleError: an update is emptying it, or has not filled it yet.
    """
    slot = (environment or Path(sys.prefix)).parent
    if os.name == "nt" or slot.name not in ("a", "b") or not is_file(slot.parent / _STATE):
        yield
        return
    with _opened(slot) as handle:
        free = True
        with suppress(OSError):  # a file system without locks: nobody installs there either
            free = flock(handle, wait=False, shared=True)
        if not free:
            raise BundleError(
                f"{slot}: an update is replacing what is in this slot: {holders(handle)}", remedy="start again"
            )
        if not is_file(slot / _DOCUMENT):  # which comes last
            raise BundleError(f"{slot}: is being filled, or was not finished", remedy="start what is in use: ROOT/run")
        yield


@contextmanager
def unused(slot: Path, waiting: Callable[[str], None] | None) -> Iterator[None]:
    """Keep a slot from being run from until the end, so that it can be emptied.

    Args:
        slot: it need not be there.
        waiting: wait until nobody runs from it, and call this with who does; refuse for None.

    Raises:
        UsageError: a process runs from it.
        OSError: the file system has no locks.
    """
    if os.name == "nt" or not slot.is_dir():
        yield
        return
    with _opened(slot) as handle, named(slot):
        if not flock(handle, wait=False):
            who = f"{slot}, which the update would empty, is in use by {holders(handle)}"
            if waiting is None:
                raise UsageError(who, remedy="end it and update again, or --wait until it has ended")
            waiting(f"{who}: waiting for its end")
            flock(handle, wait=True)
        yield


@contextmanager
def _opened(slot: Path) -> Iterator[int]:
    handle = os.open(slot, _FOLDER)
    try:
        yield handle
    finally:
        os.close(handle)
