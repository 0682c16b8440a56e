"""What a worker process does with a cell: open its row's model once, run its tasks, yield an outcome each."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from edgekit.bench import datasets, peers, seals
from edgekit.bench.cells import Cell, Outcome
from edgekit.bench.kinds import kinds
from edgekit.bench.kinds.base import RunContext
from edgekit.bench.opening import open_row
from edgekit.bench.speed import surroundings
from edgekit.bench.tasks import parse
from edgekit.errors import EdgekitError, InputError


def work(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the cell of a worker's job; results are outcomes as JSON can hold them."""
    cell = Cell.of(job)
    _use_cores(cell.cores)
    for outcome in run(cell):
        yield asdict(outcome)


def run(cell: Cell) -> Iterator[Outcome]:
    """Open the cell's model once and run its tasks; a task that fails does not take the others with it."""
    if cell.model.peer:
        yield from peers.outcomes(cell)
        return
    timed = [kind for task in cell.tasks if (kind := kinds().get(str(task.data.get("kind")))) and kind.in_rounds]
    cold_s = surroundings.cold_load_s(cell.model) if timed and cell.round == 0 else None
    started = time.perf_counter()
    try:
        model = open_row(cell.model)
    except EdgekitError as failure:
        yield from (Outcome(task.name, None, 0.0, _in_a_line(failure)) for task in cell.tasks)
        return
    load_s = time.perf_counter() - started
    data, load = Path(cell.data) if cell.data else None, cache(datasets.load)  # tasks on the same samples share them
    try:
        for given in cell.tasks:
            task = parse(given.data)
            stored = Path(cell.work) / given.stored if given.stored else None
            began = time.perf_counter()
            try:
                dataset = load(task.dataset, task.limit, task.seed, data)
                if given.data_sha256 not in ("", dataset.sha256):
                    raise InputError(f"{task.name}: the data is not what the benchmark began with")
                half = partial(open_row, replace(cell.model, bfloat16=True))
                context = RunContext(load_s, stored, cell.leaves, half, cold_s, cell)
                result, error = task.run(model, dataset, context), None
                if cell.leaves and given.stored:
                    seals.seal(Path(cell.work), given.stored)
            except EdgekitError as failure:
                result, error = None, _in_a_line(failure)
            yield Outcome(task.name, result, time.perf_counter() - began, error)
    finally:
        model.close()


def _in_a_line(failure: EdgekitError) -> str:
    return str(failure).replace("\n", "; ")


def _use_cores(cores: tuple[int, ...] | None) -> None:
    """Keep to these cores, where the system can: two rows side by side must not fight for threads."""
    if cores is not None and sys.platform == "linux":
        here = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {here[core % len(here)] for core in cores})
