"""Who holds a lock that another process wants: for messages, as far as this system tells."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LOCKS = Path("/proc/locks")  # Linux: a line for each, `1: FLOCK ADVISORY READ PID MAJOR:MINOR:INODE 0 EOF`


def holders(handle: int) -> str:
    """The processes that hold a lock (flock) of an open file or folder: number, command, and whose they are."""
    status = os.fstat(handle)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    numbers = []
    with suppress(OSError):
        lines = [line.split() for line in _LOCKS.read_text(encoding="ascii").splitlines()]
        numbers = [words[4] for words in lines if words[1:2] == ["FLOCK"] and words[5:6] == [place]]
    return ", ".join(_described(number) for number in dict.fromkeys(numbers)) or "a process"


def _described(number: str) -> str:
    said, process = [], Path("/proc", number)
    with suppress(OSError):
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        said += [command[:200]] if command else []
        said += [f"of user {owner}"] if (owner := process.stat().st_uid) != os.getuid() else []
    return f"process {number} ({', '.join(said)})" if said else f"process {number}"
