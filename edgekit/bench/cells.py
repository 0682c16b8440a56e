"""Cells: independent pieces of a benchmark, each a JSON document in and JSON lines out, run in a process of its own.

A process of its own gives every row the same start, a peak memory that is its own, and a crash that takes nothing
with it. Nothing in a cell refers to the process that made it, so cells can run anywhere the folders are.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import edgekit
from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Opening:
    """How a worker opens a row's model.

    Attributes:
        folder: an artifact folder, or a checkpoint folder for the reference and its damaged copies.
        level: the variant of an artifact.
        role, bits, scale: of a control row, the part that is damaged and how (`controls.Rounding`).
    """

    kind: Literal["artifact", "reference", "control"]
    folder: str
    level: str | None = None
    role: str | None = None
    bits: int | None = None
    scale: Literal["row", "tensor"] | None = None


@dataclass(frozen=True)
class Cell:
    """What one process does.

    Attributes:
        tasks: (task data, cache key of the reference's logits or embeddings or None) in order.
        records_reference: whether this row leaves its logits and embeddings for the others.
        work: the folder of the caches.
        data: the user's data folder.
        core: the only core to use, None for all.
    """

    opening: Opening
    tasks: tuple[tuple[dict[str, Any], str | None], ...]
    work: str
    data: str | None = None
    records_reference: bool = False
    core: int | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """The cell of `to_json`."""
        data = json.loads(text)
        tasks = tuple((task, key) for task, key in data.pop("tasks"))
        return cls(opening=Opening(**data.pop("opening")), tasks=tasks, **data)


@dataclass(frozen=True)
class Outcome:
    """What one task of a cell gave: its result, or why there is none."""

    task: str
    result: Any
    seconds: float
    error: str | None = None


class Processes:
    """The running workers, so that an interrupt ends all of them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, cell: Cell) -> Iterator[Outcome]:
        """Run a cell in a new process and yield each task's outcome as it comes; a crash is an outcome too."""
        if self._stopped:
            return
        # -P: nothing in the current directory may stand in for a module.
        command, pipe = [sys.executable, "-P", "-m", "edgekit.bench.worker"], subprocess.PIPE
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            worker = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, encoding="utf-8", env=_environment()
            )
            self._running.add(worker)
            if self._stopped:  # meanwhile
                worker.kill()
            try:
                yield from self._outcomes(worker, cell)
                if worker.wait() != 0:
                    log.seek(0)
                    raise _failure(worker.returncode, log.read())
            finally:
                worker.kill()
                worker.wait()
                self._running.discard(worker)

    def _outcomes(self, worker: subprocess.Popen[str], cell: Cell) -> Iterator[Outcome]:
        assert worker.stdin, "opened as pipes"
        assert worker.stdout, "opened as pipes"
        with worker.stdin as stdin:
            stdin.write(cell.to_json())
        with worker.stdout as stdout:
            for line in stdout:
                yield Outcome(**json.loads(line))

    def stop(self) -> None:
        """End every worker, and start no more."""
        self._stopped = True
        for worker in list(self._running):
            worker.kill()


def _environment() -> dict[str, str]:
    """Ours, with the checkout on the path where edgekit runs from one that is not installed."""
    checkout = Path(edgekit.__file__).resolve().parent.parent
    if not (checkout / "pyproject.toml").is_file():
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))}


def _failure(code: int, log: str) -> EdgekitError:
    """Why a worker died, with the last line that it wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    return EdgekitError(f"the worker process ended with {how}: {lines[-1] if lines else 'it wrote nothing'}")


def identity(*parts: Any) -> str:
    """A key: the hash of what a result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
