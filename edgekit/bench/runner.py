"""Run a benchmark: rows times tasks as independent cells, accuracy and fidelity once, latency in interleaved rounds."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from edgekit.bench import datasets
from edgekit.bench.cells import Cell, Outcome, Processes
from edgekit.bench.controls import LADDER, Rounding
from edgekit.bench.datasets import Dataset
from edgekit.bench.environment import environment
from edgekit.bench.plan import choose, fits, notes
from edgekit.bench.records import Measurement, Record, cell_key, measurement, record
from edgekit.bench.results import Results, damage
from edgekit.bench.subjects import Row, Subject, subjects
from edgekit.bench.tasks import LatencyTask, Task
from edgekit.errors import EdgekitError, UsageError
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory

_PROCESS_BYTES = 1_000_000_000  # Python, torch and transformers before any weight
_BYTES_PER_WEIGHT = 6  # float32, and half as much again while it is loaded


def bench(
    artifacts: Sequence[Path], *, levels: Sequence[str] = (), reference: Sequence[Path] = (), tasks: Sequence[str] = (),
    data: Path | None = None, rounds: int = 5, work: Path | None = None, progress: bool = True, controls: bool = True,
) -> Results:  # fmt: skip
    """Measure every artifact against the full-precision model it was made from.

    Args:
        levels: variants to measure; all without any.
        reference: checkpoint folders; the reference models are found without.
        tasks: their names; without any, all that fit and whose data is here.
        data: the folder that real data lies in.
        rounds: latency processes of each row.
        work: keeps the reference's logits and finished cells, so that an interrupted run goes on; temporary for None.
        controls: whether to add rows that must do badly.

    Raises:
        EdgekitError: something that was asked for does not exist. What fails while measuring stands in the results.
    """
    if rounds < 1:
        raise UsageError(f"{rounds} rounds", allowed="1 or more")
    found = subjects(artifacts, levels, reference)
    chosen = choose(tasks, data, found)
    with _folder(work) as folder, _Run(folder, data, chosen, found, progress) as run:
        if controls:
            run.add_controls(found, LADDER[0])
        run.expect(found, rounds)
        run.phase("reference", lambda: run.references(found))
        run.phase("accuracy and fidelity", lambda: run.quality(found))
        run.phase("coarser controls", lambda: run.coarsen_controls(found))
        run.phase("latency", lambda: run.latency(found, rounds))
        records = [run.record(subject, row) for subject in found for row in run.rows[subject.folder]]
        return Results(tuple(records), dict(run.phases), (*notes(found, data), *run.notes))


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as temporary:
            yield Path(temporary)


@dataclass(frozen=True)
class _Job:
    """A cell of one row, and its tasks with the keys under which finished outcomes are kept."""

    row: Row
    cell: Cell
    keys: tuple[tuple[str, str], ...]  # (task name, key)


class _Run:
    """The state of one benchmark: outcomes by row and task, finished cells on disk, the progress bar."""

    def __init__(
        self, work: Path, data: Path | None, tasks: Sequence[Task], found: Sequence[Subject], progress: bool
    ) -> None:
        self.work, self.cache, self.data, self.tasks = work, work / "reference", data, tasks
        self.rows = {subject.folder: subject.rows for subject in found}
        self.notes: list[str] = []
        self.quality_tasks = [task for task in tasks if not isinstance(task, LatencyTask)]
        self.latency_tasks = [task for task in tasks if isinstance(task, LatencyTask)]
        self.outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        self.phases: dict[str, float] = {}
        self.here = environment()
        self._datasets: dict[tuple[str, int, int], Dataset] = {}
        self._processes = Processes()
        self._lock = threading.Lock()
        self._bar = tqdm(unit="cell", disable=None if progress else True, leave=False)
        self._kept = _read_kept(work / "cells.jsonl")

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *reason: object) -> None:
        self._processes.stop()
        self._bar.close()

    def expect(self, found: Sequence[Subject], rounds: int) -> None:
        """Tell the progress bar how much is coming."""
        cells = 0
        for subject in found:
            cells += len(self.rows[subject.folder]) * len(self._quality(subject))
            cells += len(subject.rows) * rounds * len(self.latency_tasks)
        self._bar.total = cells
        self._bar.refresh()

    def phase(self, name: str, work: Callable[[], None]) -> None:
        """Do a phase and remember how long it took."""
        started = time.perf_counter()
        self._bar.set_description(name)
        work()
        self.phases[name] = time.perf_counter() - started

    def references(self, found: Sequence[Subject]) -> None:
        """What the other rows are compared with: the reference's logits and embeddings."""
        jobs = []
        for subject in found:
            tasks = [task for task in self._quality(subject) if task.compared]
            jobs.append(self._job(subject, subject.rows[0], tasks, records=True))
        current = {key for job in jobs for _, key in job.keys}
        for path in self.cache.glob("*"):
            if path.name.split(".")[0] not in current:  # of other code or data; a full-size one takes gigabytes
                path.unlink()
        self._side_by_side(jobs, found)

    def quality(self, found: Sequence[Subject]) -> None:
        """Accuracy of all rows, fidelity of all but the references."""
        jobs = []
        for subject in found:
            for row in self.rows[subject.folder]:
                tasks = [t for t in self._quality(subject) if row.kind != "reference" or not t.compared]
                jobs.append(self._job(subject, row, tasks))
        self._side_by_side(jobs, found)

    def add_controls(self, found: Sequence[Subject], rounding: Rounding) -> None:
        """Give each subject a control row, in place of one that it has."""
        for subject in found:
            if row := subject.control(rounding):
                self.rows[subject.folder] = (*subject.rows, row)

    def coarsen_controls(self, found: Sequence[Subject]) -> None:
        """Where a control shows nothing, take a coarser one, down the ladder."""
        for shown, coarser in pairwise(LADDER):
            found = [subject for subject in found if self._hides_damage(subject)]
            if not found:
                return
            names = [subject.manifest.title for subject in found]
            self.notes += [f"{name}: a control at {shown} showed no drop in accuracy" for name in names]
            self.add_controls(found, coarser)
            jobs = [self._job(subject, self.rows[subject.folder][-1], self._quality(subject)) for subject in found]
            self._bar.total = (self._bar.total or 0) + sum(len(job.keys) for job in jobs)
            self._side_by_side(jobs, found)

    def _hides_damage(self, subject: Subject) -> bool:
        last = self.record(subject, self.rows[subject.folder][-1])
        return any(one.missed and not one.shown for one in damage([last]))

    def latency(self, found: Sequence[Subject], rounds: int) -> None:
        """Rounds interleaved over rows, one process at a time, so that a busy minute hits every row alike."""
        if not self.latency_tasks:
            return
        for _ in range(rounds):
            for subject in found:
                for row in subject.rows:
                    self._do(self._job(subject, row, self.latency_tasks), None)

    def record(self, subject: Subject, row: Row) -> Record:
        """The record of a row from its outcomes."""
        measured: list[Measurement] = []
        for task in self.tasks:
            outcomes = self.outcomes.get((row.key, task.name))
            if outcomes:
                reference = self.outcomes.get((subject.rows[0].key, task.name)) if subject.source else None
                good = reference[0] if reference else None
                measured.append(measurement(task, row, self._dataset(task), outcomes, good, self.here))
        return record(subject, row, measured, self.here)

    def _quality(self, subject: Subject) -> list[Task]:
        return [task for task in self.quality_tasks if fits(task, subject)]

    def _job(self, subject: Subject, row: Row, tasks: Sequence[Task], *, records: bool = False) -> _Job:
        keys, listed = [], []
        for task in tasks:
            key = cell_key(task, row, self._dataset(task).sha256, self.here)
            if not isinstance(task, LatencyTask) and key in self._kept and not records:
                self._finish(row, self._kept[key])
                continue
            shared = cell_key(task, subject.rows[0], self._dataset(task).sha256, self.here) if task.compared else None
            keys.append((task.name, key))
            listed.append((task.model_dump(mode="json"), shared))
        cell = Cell(
            row.opening, tuple(listed), str(self.cache), str(self.data.resolve()) if self.data else None, records
        )
        return _Job(row, cell, tuple(keys))

    def _dataset(self, task: Task) -> Dataset:
        key = (task.dataset, task.limit, task.seed)
        if key not in self._datasets:
            self._datasets[key] = datasets.load(*key, self.data)
        return self._datasets[key]

    def _side_by_side(self, jobs: Sequence[_Job], found: Sequence[Subject]) -> None:
        """Run jobs at the same time, one core each, as far as cores and memory go; the slow ones begin."""
        jobs = [job for job in jobs if job.keys]
        jobs = sorted(jobs, key=lambda job: job.cell.opening.kind == "artifact")
        largest = max((subject.weights for subject in found), default=0)
        fitting = memory().available_bytes // (_PROCESS_BYTES + _BYTES_PER_WEIGHT * largest)
        width = max(1, min(cpu().usable_cores, fitting, len(jobs)))
        cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for core in range(width):
            cores.put(core if width > 1 else None)

        def one(job: _Job) -> None:
            core = cores.get()
            try:
                self._do(job, core)
            finally:
                cores.put(core)

        pool = ThreadPoolExecutor(width)
        finished = False
        try:
            list(pool.map(one, jobs))
            finished = True
        finally:
            if not finished:  # interrupted: do not wait for what is running
                self._processes.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _do(self, job: _Job, core: int | None) -> None:
        """Run one cell; what it does not finish becomes an error of its row."""
        open_keys, why = dict(job.keys), "it was not finished"
        try:
            for outcome in self._processes.run(replace(job.cell, core=core)):
                key = open_keys.pop(outcome.task)
                self._keep(key, outcome)
                self._finish(job.row, outcome)
        except EdgekitError as error:
            why = str(error)
        for name in open_keys:
            self._finish(job.row, Outcome(name, None, 0.0, why))

    def _finish(self, row: Row, outcome: Outcome) -> None:
        self.outcomes[row.key, outcome.task].append(outcome)
        self._bar.update(1)

    def _keep(self, key: str, outcome: Outcome) -> None:
        if outcome.error is None:
            line = json.dumps({"key": key, "outcome": asdict(outcome)}) + "\n"
            with self._lock, (self.work / "cells.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)


def _read_kept(path: Path) -> dict[str, Outcome]:
    """Finished cells of earlier runs; a last line that an interrupt cut short is left out."""
    kept: dict[str, Outcome] = {}
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    for line in lines:
        try:
            data = json.loads(line)
            kept[data["key"]] = Outcome(**data["outcome"])
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return kept
