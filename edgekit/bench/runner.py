"""Run a benchmark: rows times tasks as independent cells, accuracy and fidelity once, latency in interleaved rounds."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.folders import claimed
from edgekit.bench import datasets, journal, peers, preflight
from edgekit.bench.assemble import cell_key, measurement, record
from edgekit.bench.cells import Cell, CellTask, Outcome
from edgekit.bench.controls import LADDER, Rounding
from edgekit.bench.corrections import corrected
from edgekit.bench.datasets import Dataset
from edgekit.bench.environment import environment
from edgekit.bench.execute import Executor
from edgekit.bench.execute.local import Local
from edgekit.bench.kinds import Task
from edgekit.bench.peers.rows import timed
from edgekit.bench.plan import choose, fits, notes
from edgekit.bench.records import Measurement, Record
from edgekit.bench.results import Results, damage
from edgekit.bench.subjects import Subject, TableRow, subjects
from edgekit.errors import ArtifactError, UsageError
from edgekit.machine.cache import cache_folder
from edgekit.machine.temporary import temporary_folder
from edgekit.progress import Progress


@dataclass(frozen=True)
class Sweep:
    """What to measure.

    Attributes:
        artifacts: their folders.
        levels: variants to measure; all without any.
        checkpoints: folders that artifacts were made from; the reference models are found without.
        tasks: their names; without any, all that fit and whose data is here.
        data: the folder that real data lies in.
        rounds: processes of each row for tasks that are measured in rounds.
        tuned: measure each variant that was tuned here once more, as users open it.
        controls: rows that must do badly, each coarser one tried where the one before shows no damage; none for empty.
        threads: numbers of them with which variants are timed, beside all cores.
        peers: other programs that are timed beside them, NAME or NAME=PROGRAM.
        install_peers: make a peer's environment with pip where there is none.
    """

    artifacts: Sequence[Path]
    levels: Sequence[str] = ()
    checkpoints: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    data: Path | None = None
    rounds: int = 5
    tuned: bool = False
    controls: Sequence[Rounding] = LADDER
    threads: Sequence[int] = ()
    peers: Sequence[str] = ()
    install_peers: bool = False


def bench(
    sweep: Sweep, *, work: Path | None = None, progress: Progress | None = None, executor: Executor | None = None
) -> Results:
    """Measure every artifact against the full-precision model it was made from.

    Args:
        work: keeps what the full-precision models leave and finished cells, so that an interrupted run goes on;
            temporary for None.
        executor: where cells run; on this machine for None.

    Raises:
        EdgekitError: something that was asked for does not exist, or the run lacks something: all that is missing in
            one error, before anything is measured. What fails while measuring stands in the results.
    """
    if sweep.rounds < 1:
        raise UsageError(f"{sweep.rounds} rounds", allowed="1 or more")
    beside = [peers.found(name, install=sweep.install_peers) for name in sweep.peers]
    measured = timed(subjects(sweep.artifacts, sweep.levels, sweep.checkpoints, sweep.tuned), sweep.threads, beside)
    tasks = choose(sweep.tasks, sweep.data, measured)
    data = _Data(sweep.data)
    preflight.check(measured, tasks, data.of, work)
    with (
        file_errors(work or cache_folder()),
        _folder(work) as folder,
        _Run(sweep, measured, tasks, folder, data, executor or Local()) as run,
    ):
        run.progress = progress or Progress()
        run.phase("reference", run.full_precision)
        run.phase("accuracy and fidelity", run.quality)
        run.phase("coarser controls", run.coarsen_controls)
        run.phase("latency", run.rounds)
        said = (*notes(measured, sweep.data, sweep.tuned), *run.notes)
        return Results(run.records(), dict(run.phases), said if sweep.controls else (*said, "no control was asked for"))


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        with claimed(work):
            yield work.resolve()
    else:
        # Full precision's logits of a full-size model take gigabytes, more than many a /tmp has.
        with temporary_folder("bench", cache_folder()) as temporary:
            yield temporary


class _Data:
    """The data sets of a run, each read once.

    Args:
        folder: the user's, of real data.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[tuple[str, int, int], Dataset] = {}
        self._attributed: dict[str, dict[str, str]] = {}

    def of(self, task: Task) -> Dataset:
        """A task's. Raises EdgekitError where it cannot be read."""
        key = (task.dataset, task.limit, task.seed)
        if key not in self._read:
            self._read[key] = datasets.load(*key, self._folder)
        return self._read[key]

    def attribution(self, task: Task) -> dict[str, str]:
        """Whose a task's data is."""
        if task.dataset not in self._attributed:
            self._attributed[task.dataset] = datasets.attribution(task.dataset, self._folder)
        return self._attributed[task.dataset]


class _Run:
    """The state of one benchmark: outcomes by row and task, finished cells on disk.

    Attributes:
        progress: what phases report to.
    """

    def __init__(
        self,
        sweep: Sweep,
        measured: Sequence[Subject],
        tasks: Sequence[Task],
        work: Path,
        data: _Data,
        executor: Executor,
    ) -> None:
        self.sweep, self.subjects, self.tasks = sweep, measured, tasks
        self.rows = {subject.folder: subject.rows for subject in measured}
        self.notes: list[str] = []
        self.phases: dict[str, float] = {}
        self.here = environment()
        self._outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        self._data = data
        self._executor, self._lock = executor, threading.Lock()
        self._left, self._journal = work / "reference", work / "cells.jsonl"
        self._finished = journal.read(self._journal)
        self._keys: dict[tuple[str, str], str] = {}  # (row, task) -> the key under which its outcome is written
        self.progress, self._phase = Progress(), ""
        self._named: dict[str, str] = {}  # row -> what people call it
        self._said: set[tuple[str, str]] = set()  # row, error
        if sweep.controls:
            self._add_controls(measured, sweep.controls[0])

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *reason: object) -> None:
        self._executor.stop()
        self.progress.finish()

    def phase(self, name: str, work: Callable[[], None]) -> None:
        """Do a phase and remember how long it took."""
        started, self._phase = time.perf_counter(), name
        work()
        self.phases[name] = time.perf_counter() - started

    def full_precision(self) -> None:
        """What the other rows are compared with: the full-precision models' logits and embeddings."""
        cells = []
        for subject in self.subjects:
            tasks = [task for task in self._tasks(subject) if task.needs_full_precision]
            if tasks:
                cells.append(self._cell(subject, subject.rows[0], tasks, leaves=True))
        current = {task.stored for cell in cells for task in cell.tasks}
        if self._left.is_symlink():
            raise ArtifactError(f"{self._left}: is a link", remedy="remove it")
        for path in self._left.glob("*"):
            if path.name.split(".")[0] not in current:  # of other code or data; a full-size one takes gigabytes
                path.unlink()
        self._execute(cells)

    def quality(self) -> None:
        """Accuracy of all rows, fidelity of all but full precision."""
        cells = []
        for subject in self.subjects:
            for row in self.rows[subject.folder]:
                done = row.model.is_full_precision  # in the phase before
                tasks = [task for task in self._tasks(subject) if not (done and task.needs_full_precision)]
                cells.append(self._cell(subject, row, tasks))
        self._execute([cell for cell in cells if cell.tasks])

    def coarsen_controls(self) -> None:
        """Where a control shows nothing, take a coarser one, down the ladder."""
        hidden = list(self.subjects)
        for shown, coarser in pairwise(self.sweep.controls):
            hidden = [subject for subject in hidden if self._hides_damage(subject)]
            if not hidden:
                return
            names = [subject.manifest.title for subject in hidden]
            self.notes += [f"{name}: a control at {shown} showed no drop in accuracy" for name in names]
            self._add_controls(hidden, coarser)
            cells = [self._cell(s, self.rows[s.folder][-1], self._tasks(s)) for s in hidden]
            self._execute([cell for cell in cells if cell.tasks])

    def rounds(self) -> None:
        """Rounds interleaved over rows, one process at a time, so that a busy minute hits every row alike."""
        pairs = [(subject, row) for subject in self.subjects for row in (*subject.rows, *subject.timed)]
        once = [self._cell(s, row, tasks) for s, row in pairs if (tasks := self._tasks(s, in_rounds=True))]
        self._execute([replace(cell, round=n) for n in range(self.sweep.rounds) for cell in once], alone=True)

    def records(self) -> tuple[Record, ...]:
        """The records of all rows from their outcomes."""
        rows = ((subject, row) for subject in self.subjects for row in (*self.rows[subject.folder], *subject.timed))
        return corrected([self._record(subject, row) for subject, row in rows])

    def _execute(self, cells: Sequence[Cell], *, alone: bool = False) -> None:
        if cells:
            self.progress.start(f"measuring {self._phase}", sum(len(cell.tasks) for cell in cells))
        self._executor.run(cells, self._take, alone=alone)

    def _add_controls(self, measured: Sequence[Subject], rounding: Rounding) -> None:
        """Give each subject a control row, in place of one that it has."""
        for subject in measured:
            if row := subject.control(rounding):
                self.rows[subject.folder] = (*subject.rows, row)

    def _hides_damage(self, subject: Subject) -> bool:
        last = self._record(subject, self.rows[subject.folder][-1])
        return any(control.blind for control in damage([last]))

    def _record(self, subject: Subject, row: TableRow) -> Record:
        measured: list[Measurement] = []
        for task in self.tasks:
            if outcomes := self._outcomes.get((row.key, task.name)):
                exact = self._outcomes.get((subject.rows[0].key, task.name)) if subject.source else None
                good = exact[0] if exact else None
                given, whose = self._data.of(task), self._data.attribution(task)
                measured.append(measurement(task, row, given, outcomes, good, self.here, whose))
        return record(subject, row, measured, self.here)

    def _tasks(self, subject: Subject, *, in_rounds: bool = False) -> list[Task]:
        return [task for task in self.tasks if task.in_rounds == in_rounds and fits(task, subject)]

    def _cell(self, subject: Subject, row: TableRow, tasks: Sequence[Task], *, leaves: bool = False) -> Cell:
        """The cell of a row; tasks whose outcome an earlier run wrote are taken from there."""
        self._named[row.key] = f"{subject.manifest.title}, {row.name}"
        listed = []
        for task in tasks:
            data_sha256 = self._data.of(task).sha256
            key = cell_key(task, row, data_sha256, self.here)
            if key in self._finished and not task.in_rounds and not leaves:
                self._outcomes[row.key, task.name].append(self._finished[key])
                continue
            self._keys[row.key, task.name] = key
            shared = cell_key(task, subject.rows[0], data_sha256, self.here) if task.needs_full_precision else None
            listed.append(CellTask(task.model_dump(mode="json"), shared))
        data = str(self.sweep.data.resolve()) if self.sweep.data else None
        weights = max(subject.weights for subject in self.subjects)
        return Cell(row.key, row.model, tuple(listed), weights, str(self._left), data, leaves)

    def _take(self, cell: Cell, outcome: Outcome) -> None:
        """An outcome comes in, from any thread."""
        with self._lock:
            if outcome.error is None:
                journal.append(self._journal, self._keys[cell.row, outcome.task], outcome)
            elif (cell.row, outcome.error) not in self._said:  # a process that died takes all its tasks with it
                self._said.add((cell.row, outcome.error))
                self.progress.note(f"{self._named[cell.row]}, {outcome.task}: {outcome.error}")
            self._outcomes[cell.row, outcome.task].append(outcome)
            self.progress.advance()
