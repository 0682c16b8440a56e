"""Runs commands with a fault at their N-th file operation, and tells what they did to the disk.

The shim (`shim.c`, preloaded) sees what everything in a process writes, native libraries and worker processes too. A
server process that has imported everything forks for each run, which costs a hundredth of starting Python anew.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SHIM = Path(__file__).with_name("shim.c")
FAULTS = {"no space": 1, "I/O error": 2, "permission": 3, "short write": 4, "killed": 5, "torn write": 6}
LIMIT_S = 300
_CONTROL = struct.Struct("lli4x")  # as in shim.c: count, at, kind


@dataclass(frozen=True)
class Operation:
    """One file operation below the root: `create`, `open` (to write), `write`, `fsync`, `rename`, `link`, ..."""

    name: str
    path: Path
    target: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: its exit code; of a signal its negative number, as of a killed run.
        said: standard error.
        fault: which there was to be.
    """

    code: int
    said: str
    fault: str
    operations: tuple[Operation, ...]


class Injector:
    """A server of runs below one folder; a context manager.

    Args:
        root: the folder whose files count; temporary files and the cache lie in it too.
        scratch: for what this needs itself, beside the root.
        proofs: whether proofs will be run: their libraries are imported first.
        server: the module that calls `serve`.
    """

    def __init__(
        self,
        root: Path,
        scratch: Path,
        environment: dict[str, str],
        *,
        proofs: bool = True,
        server: str = "faults.server",
    ) -> None:
        self._proofs, self._serving = ["proofs"] if proofs else [], server
        self._root, self._log, self._said = root, scratch / "operations", scratch / "said"
        control = scratch / "control"
        control.write_bytes(bytes(_CONTROL.size))
        library = scratch / "shim.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        assert compiler, "a C compiler"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SHIM, "-ldl"], check=True)
        self._file = control.open("r+b")
        self._control = mmap.mmap(self._file.fileno(), _CONTROL.size)
        self._environment = {
            **os.environ,
            **environment,
            "TMPDIR": str(root / "tmp"),
            "EDGEKIT_CACHE": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "LD_PRELOAD": str(library),
            "FAULT_ROOT": str(root),
            "FAULT_CONTROL": str(control),
            "FAULT_LOG": str(self._log),
        }

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", self._serving, str(self._root), str(self._said), *self._proofs],
            env=self._environment, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._control.close()
        self._file.close()

    def run(self, call: str, *, at: int = 0, fault: str = "killed") -> Ended:
        """Run one of the server's calls, with a fault at its operation number `at`, from 1; without one for 0."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        (self._root / "tmp").mkdir(exist_ok=True)
        self._log.write_bytes(b"")
        self._control[:] = _CONTROL.pack(0, at, FAULTS[fault])
        self._server.stdin.write(json.dumps(call) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ended(code, self._said.read_text(errors="replace"), fault, tuple(self._operations()))

    def _operations(self) -> Iterator[Operation]:
        for line in os.fsdecode(self._log.read_bytes()).splitlines():
            name, path, *target = line.split("\t")
            yield Operation(name, Path(path), Path(target[0]) if target else None)


def serve(root: Path, said: Path, calls: Mapping[str, Callable[[], int]]) -> None:
    """The server: a name on each line of standard input, a fork for each, its exit code on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()  # a kill takes its workers along
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(root)
            signal.alarm(LIMIT_S)
            try:
                code = calls[json.loads(line)]()
            except SystemExit as end:
                code = 0 if end.code is None else int(end.code)
            except BaseException:  # noqa: BLE001 (as the interpreter does it)
                sys.excepthook(*sys.exc_info())
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
