"""Peaks of the memory that a process and its children hold: their own, and what is mapped from files."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY_S = 0.1


@dataclass
class Peaks:
    """In bytes, over a process and its children; they grow while they are watched.

    Attributes:
        resident: own and mapped together. Of each process the kernel's own peak, where it keeps one.
        own: memory that no file holds; 0 where the system does not tell them apart.
        mapped: pages of files, weights that are used where they lie among them; 0 where it does not tell.
    """

    resident: int = 0
    own: int = 0
    mapped: int = 0

    def look(self, pid: int) -> None:
        """Take what a process and its children hold now into account."""
        held = [_held(one) for one in _tree(pid)]
        for name, values in zip(("resident", "own", "mapped"), zip(*held, strict=True), strict=False):
            setattr(self, name, max(getattr(self, name), sum(values)))


@contextmanager
def peaks(pid: int | None = None) -> Iterator[Peaks]:
    """Watch a process, this one without its number, and all its children, ten times a second."""
    found, watched, over = Peaks(), pid or os.getpid(), threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            found.look(watched)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.look(watched)
        over.set()
        thread.join()


def _tree(pid: int) -> Iterator[int]:
    """A process and its children. psutil would look through all processes of the machine, which takes milliseconds."""
    yield pid
    if sys.platform != "linux":
        with suppress(psutil.Error):
            yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
        return
    with suppress(OSError):  # a thread, or the process, ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text(encoding="utf-8").split():
                yield from _tree(int(child))


def _held(pid: int) -> tuple[int, int, int]:
    """Resident, own and mapped bytes of a process; nothing of one that ended."""
    if sys.platform != "linux":
        with suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss), 0, 0
        return 0, 0, 0
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB", text, re.MULTILINE)
        sizes = {name: int(size) * 1024 for name, size in found}
        return sizes.get("VmHWM", 0), sizes.get("RssAnon", 0), sizes.get("RssFile", 0)
    return 0, 0, 0
