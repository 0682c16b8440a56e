"""A process under watch: what it and its children open sockets for, and which files they make, change or remove.

strace sees every system call, also those of libraries that are linked statically or call the kernel by themselves,
which a library put in front of libc (LD_PRELOAD) does not.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CALLS = (
    "%network,?open,openat,?openat2,?creat,?mkdir,mkdirat,?mknod,mknodat,?rename,?renameat,renameat2,?unlink,unlinkat,"
    "?rmdir,?link,linkat,?symlink,symlinkat,truncate,?chmod,fchmodat,?utimensat"
)
_ADDRESSED = ("connect", "bind", "sendto", "sendmsg", "sendmmsg")
_CHANGING = (
    *("open", "creat", "mk", "rename", "unlink", "rmdir", "link", "symlink", "truncate"),
    *("chmod", "fchmodat", "utimensat"),
)
_LINE = re.compile(r"^(\w+)\((.*)$")
_PLACE = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|inet_pton\(AF_INET6, "::ffff:127\.')
_NAME_SERVICE = re.compile(r"htons\((53|853|5353)\)")


@functools.cache
def can_watch() -> bool:
    """Whether strace is here and may trace."""
    if sys.platform != "linux" or not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Seen:
    """What a watched process did.

    Attributes:
        sockets: every call that could reach another machine: sockets of other families than AF_UNIX that are used
            for anything but the loopback, and questions to a name service wherever it listens.
        changed: every path that was opened for writing, made, renamed, linked or removed, or was tried to.
    """

    exit_code: int
    output: str
    sockets: tuple[str, ...]
    changed: frozenset[Path]

    def outside(self, *allowed: Path) -> list[Path]:
        """What was changed elsewhere; a semaphore in shared memory is no file that stays."""
        places = [*(place.resolve() for place in allowed), Path("/dev/null"), Path("/dev/tty")]
        return sorted(
            path
            for path in self.changed
            if not any(path.is_relative_to(place) for place in places) and not str(path).startswith("/dev/shm/sem.")
        )


def watch(command: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str], typed: str = "") -> Seen:
    """Run a command to its end, which finds this on its standard input."""
    with tempfile.TemporaryDirectory() as folder:
        # A file for each process and thread: nobody's line is broken by another's.
        tracer = ["strace", "-ff", "--seccomp-bpf", "-y", "-qq", "-s", "4096", "-e", f"trace={_CALLS}"]
        done = subprocess.run(
            [*tracer, "-o", f"{folder}/trace", *map(str, command)],
            input=typed,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
            env=dict(environment),
            timeout=600,
        )
        lines = [line for path in Path(folder).iterdir() for line in path.read_text(errors="replace").splitlines()]
    sockets = tuple(line for line in lines if _reaches(*_parts(line)))
    return Seen(done.returncode, done.stdout + done.stderr, sockets, frozenset(_changed(lines, cwd)))


def _reaches(call: str, rest: str) -> bool:
    """Whether a system call is about another machine, or asks for a name."""
    if call == "socket":
        return not rest.startswith(("AF_UNIX", "AF_INET"))  # the latter count when they are used
    if call not in _ADDRESSED or not re.search("sa_family=(?!AF_UNIX)", rest):
        return False
    return not _LOOPBACK.search(rest) or bool(_NAME_SERVICE.search(rest))


def _changed(lines: Sequence[str], cwd: Path) -> Iterator[Path]:
    for line in lines:
        call, rest = _parts(line)
        reads = call.startswith("open") and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|O_TRUNC", rest)
        if call.startswith(_CHANGING) and not reads:
            places = _PLACE.findall(rest)
            for folder, name in places[-1:] if call.startswith("symlink") else places:  # what it points at stays
                yield Path(os.path.normpath(Path(folder or cwd) / name))


def _parts(line: str) -> tuple[str, str]:
    found = _LINE.match(line)
    return (found[1], found[2]) if found else ("", "")
