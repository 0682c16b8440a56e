"""A machine of a cluster at work: finds a cell's folders among its own, and runs it in a worker process.

Folders come with their paths relative to the one that the benchmark was started in and with a hash of what must be in
them. They are looked for in $EDGEKIT_BENCH_ROOT of this machine, or under the same path as there; a folder that holds
something else is never measured in place of the right one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgekit.artifacts.files import make_folder
from edgekit.bench import worker
from edgekit.bench.cells import Cell, ModelRef, Outcome
from edgekit.bench.environment import environment
from edgekit.bench.subjects import content
from edgekit.checkpoints import reference_models
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.machine.cache import cache_folder
from edgekit.machine.temporary import temporary_folder
from edgekit.machine.worker import Workers

VARIABLE = "EDGEKIT_BENCH_ROOT"
_CHUNK_BYTES = 1 << 23


class Station:
    """What runs on each machine of a cluster, for one benchmark.

    Args:
        root: the folder that the benchmark was started in.
    """

    def __init__(self, root: str) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray says 1; how many cores a cell has, its affinity says
        self._root = Path(os.environ.get(VARIABLE) or root)
        self._held = ExitStack()
        self._work = self._held.enter_context(temporary_folder("bench", cache_folder()))
        self._workers = Workers()
        self._found: dict[tuple[str, str], Path] = {}

    def environment(self) -> dict[str, Any]:
        """This machine's, as JSON can hold it."""
        return asdict(environment())

    def work(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Run a cell: its outcomes as JSON can hold them; where its process dies the last says why as `died`."""
        cell = Cell.of(job)
        try:
            model = replace(cell.model, folder=str(self._find(cell.model)))
        except EdgekitError as error:
            yield from (asdict(Outcome(task.name, None, 0.0, str(error))) for task in cell.tasks)
            return
        data = str(self._root / cell.data) if cell.data else None
        try:
            here = replace(cell, model=model, data=data, work=str(self._work))
            yield from self._workers.results(worker.work, here.job())
        except EdgekitError as error:
            yield {"died": str(error)}

    def sizes(self, stored: str) -> dict[str, int]:
        """Which files of the full-precision model are here, name -> bytes; those written last come last."""
        return sizes(self._work, stored)

    def send(self, name: str) -> Iterator[bytes]:
        """The content of one of them, in pieces."""
        yield from pieces(self._work / name)

    def receive(self, name: str, piece: bytes, *, first: bool, last: bool) -> None:
        """Take a piece of one; it has its name when it is whole."""
        make_folder(self._work)
        part = self._work / f".{name}.part"
        with part.open("wb" if first else "ab") as stream:
            stream.write(piece)
        if last:
            part.replace(self._work / name)

    def close(self) -> None:
        """End what runs, and remove what was written."""
        self._workers.stop()
        self._held.close()

    def _find(self, model: ModelRef) -> Path:
        """The folder that holds what a cell measures. Raises ArtifactError where there is none."""
        own = [path for name in reference_models.NAMES if (path := reference_models.path(name))]
        known = (model.content, model.level or "")
        for folder in (self._root / model.folder, *own):
            if known not in self._found and _holds(folder, model):
                self._found[known] = folder
        if known not in self._found:
            raise ArtifactError(
                f"{self._root / model.folder}: not the folder that is measured",
                remedy=f"copy it there, or name the folder that its path begins in by {VARIABLE} before ray start",
            )
        return self._found[known]


def sizes(folder: Path, stored: str) -> dict[str, int]:
    """The files `STORED.*` of a folder, name -> bytes; those written last come last, for they say that all is there."""
    found = sorted((path for path in folder.glob(f"{stored}.*")), key=lambda path: path.stat().st_mtime_ns)
    return {path.name: path.stat().st_size for path in found}


def pieces(path: Path) -> Iterator[bytes]:
    """A file's content in pieces, at least one."""
    with path.open("rb") as stream:
        yield stream.read(_CHUNK_BYTES)
        while piece := stream.read(_CHUNK_BYTES):
            yield piece


def _holds(folder: Path, model: ModelRef) -> bool:
    try:
        return content(folder, model.level) == model.content
    except (EdgekitError, OSError):
        return False
