"""The worker process: a cell as JSON on standard input, one JSON line a task on standard output.

python -m edgekit.bench.worker < cell.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from edgekit.bench import datasets
from edgekit.bench import predictions as accuracy
from edgekit.bench.cells import Cell, Opening, Outcome
from edgekit.bench.controls import Rounding, open_control
from edgekit.bench.kinds import decoder_fidelity as fidelity
from edgekit.bench.kinds import latency
from edgekit.bench.tasks import (
    AnswerTask,
    DecoderFidelityTask,
    EncoderFidelityTask,
    LabelsTask,
    LatencyTask,
    Task,
    parse,
)
from edgekit.errors import EdgekitError
from edgekit.runtime.base import Model


def run(cell: Cell, emit: Callable[[Outcome], None]) -> None:
    """Open the cell's model once and do its tasks; a task that fails does not take the others with it."""
    started = time.perf_counter()
    model = open_row(cell.opening)
    load_s = time.perf_counter() - started
    try:
        for data, key in cell.tasks:
            task = parse(data)
            began = time.perf_counter()
            try:
                result, error = measure(model, task, cell, key, load_s), None
            except EdgekitError as failure:
                result, error = None, str(failure)
            emit(Outcome(task.name, result, time.perf_counter() - began, error))
    finally:
        model.close()


def measure(model: Model, task: Task, cell: Cell, key: str | None, load_s: float) -> Any:
    """One task's result, as JSON has it."""
    dataset = _dataset(task.dataset, task.limit, task.seed, cell.data)
    work = Path(cell.work)
    match task:
        case LabelsTask():
            return asdict(accuracy.classify(model, task, dataset))
        case AnswerTask():
            return asdict(accuracy.answer(model, task, dataset))
        case DecoderFidelityTask():
            if cell.records_reference:
                fidelity.record_decoder(model, task, dataset, work, str(key))
            return asdict(fidelity.decoder(model, task, dataset, work, str(key)))
        case EncoderFidelityTask():
            if cell.records_reference:
                fidelity.record_encoder(model, task, dataset, work, str(key))
            return fidelity.encoder(model, task, dataset, work, str(key))
        case LatencyTask():
            return latency.measure(model, task, dataset, load_s)


def open_row(opening: Opening) -> Model:
    """The model of a row."""
    # Imported here: opening an artifact must not pay for torch, in time or in memory.
    if opening.kind == "artifact":
        from edgekit.runtime import open_model
        from edgekit.runtime.tuning_results import DEFAULT

        # What `edgekit tune` found on this machine must not decide what a record of this level says.
        return open_model(Path(opening.folder), opening.level, runtime=DEFAULT)
    if opening.role and opening.bits and opening.scale:
        return open_control(Path(opening.folder), opening.role, Rounding(opening.bits, opening.scale))
    from edgekit.full_precision.model import open_full_precision

    return open_full_precision(Path(opening.folder))


@cache
def _dataset(name: str, limit: int, seed: int, data: str | None) -> datasets.Dataset:
    return datasets.load(name, limit, seed, Path(data) if data else None)


def _use_core(core: int | None) -> None:
    """Keep to one core, where the system can: two rows side by side must not fight for threads."""
    if core is not None and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def main() -> int:
    """Read a cell, write outcomes. Exit code 1 with the reason on standard error where the model does not open."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # die quietly: the parent tells the user
    # Libraries print to file descriptor 1; only outcomes may go where the parent reads.
    results: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    cell = Cell.from_json(sys.stdin.read())
    _use_core(cell.core)

    def emit(outcome: Outcome) -> None:
        results.write(json.dumps(asdict(outcome)) + "\n")
        results.flush()

    try:
        run(cell, emit)
    except EdgekitError as error:
        print(str(error).replace("\n", "; "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
