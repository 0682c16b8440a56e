"""What is measured around a model: its first opening from the disk, and the machine's limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import make_folder, write_atomically
from edgekit.bench.cells import ModelRef
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.machine import page_cache, roofline
from edgekit.machine.roofline import Roofline
from edgekit.machine.worker import run

_FILE = "roofline.json"


def cold_load_s(model: ModelRef) -> float | None:
    """Seconds of opening a model in a process of its own, its files read from the disk.

    A library that maps weights may read them only when they are first used; that is not in this figure.

    Returns:
        None where the system cannot be asked to forget files, or the model does not open, which its own row says.
    """
    try:
        paths = files(model)
    except EdgekitError:
        return None
    if model.level is not None:
        run(opened, asdict(model))  # who opens an artifact for the first time has its files tried, which is no loading
    if not page_cache.forget(paths):
        return None
    found, end = run(opened, asdict(model))
    return None if end.problem or not found else float(found[-1])


def files(model: ModelRef) -> list[Path]:
    """The files that hold a row's weights.

    Raises:
        EdgekitError: its folder is not what it must be.
    """
    folder = Path(model.folder)
    if model.level is None:
        return list(open_checkpoint(folder).shards)
    _, parts = manifests.read(folder).variant(model.level)
    return [folder / entry.path for part in parts.values() for entry in part.files]


def opened(job: dict[str, Any]) -> Iterator[float]:
    """A worker's work: seconds of opening the model of `job`, a `ModelRef`."""
    started = time.perf_counter()
    from edgekit.bench.opening import open_row  # its libraries are a part of it

    with closing(open_row(ModelRef.of(job))):
        yield time.perf_counter() - started


def limits(folder: Path) -> Roofline | None:
    """This machine's limits, measured once for a run: the first who asks writes them into `folder`.

    Returns:
        None where they cannot be measured, for a library died on it.
    """
    path = folder / _FILE
    if is_file(path):
        return Roofline.of(read_json(path, ArtifactError))
    found, end = run(roofline.measure)
    if end.problem or not found:
        return None
    make_folder(folder)
    write_atomically(path, json.dumps(found[-1]))
    return Roofline.of(found[-1])
