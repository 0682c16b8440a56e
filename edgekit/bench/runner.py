"""Run a benchmark: rows times tasks as independent cells, accuracy and fidelity once, latency in interleaved rounds.

A figure follows from what is measured and the machine alone: not from the order in which cells end, from where they
run, or from how often the run was interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.folders import claimed
from edgekit.bench import datasets, own, peers, preflight, seals
from edgekit.bench.assemble import cell_key, measurement, record
from edgekit.bench.cells import Cell, CellTask, Outcome, identity
from edgekit.bench.controls import FEWEST_SAMPLES, LADDER, Rounding, could_show
from edgekit.bench.corrections import corrected
from edgekit.bench.datasets import Dataset, DatasetSource
from edgekit.bench.decision.gates import Gate
from edgekit.bench.decision.planned import check_planned
from edgekit.bench.environment import Environment
from edgekit.bench.execute import Executor, threads
from edgekit.bench.execute.local import Local
from edgekit.bench.kinds import Task
from edgekit.bench.ledger import Ledger
from edgekit.bench.obeying import obeying
from edgekit.bench.peers.rows import timed
from edgekit.bench.plan import choose, fits, notes
from edgekit.bench.records import Measurement, Record
from edgekit.bench.results import Results, damage
from edgekit.bench.subjects import Subject, TableRow, on_devices, subjects
from edgekit.errors import ArtifactError, EdgekitError, UsageError
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
        ray: the address of a Ray cluster that cells run on; None for this machine.
        devices: tags of the machines that levels are measured on, each on each; any machine without one.
        images: the user's own, with labels: a folder, a table, or a data set of the hub.
        questions: the user's own, with answers: a table, or a data set of the hub.
        download: fetch data sets of the hub that are not here.
        limit: how many samples of each task's at most; None for as many as the task says.
        threads: numbers of them with which variants are timed, beside all cores.
        peers: other programs that are timed beside them, NAME or NAME=PROGRAM.
        install_peers: make a peer's environment with pip where there is none.
        gates: what the results will be asked, of which nothing may be that no task gives.
        device: the profile whose plan levels obey; None for all that this machine has.
    """

    artifacts: Sequence[Path]
    levels: Sequence[str] = ()
    checkpoints: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    data: Path | None = None
    rounds: int = 5
    tuned: bool = False
    controls: Sequence[Rounding] = LADDER
    ray: str | None = None
    devices: Sequence[str] = ()
    images: str | None = None
    questions: str | None = None
    download: bool = False
    limit: int | None = None
    threads: Sequence[int] = ()
    peers: Sequence[str] = ()
    install_peers: bool = False
    gates: Sequence[Gate] = ()
    device: str | None = None


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
    _check(sweep)
    beside = [peers.found(name, install=sweep.install_peers) for name in sweep.peers]
    found = subjects(sweep.artifacts, sweep.levels, sweep.checkpoints, sweep.tuned)
    found, left_out = obeying(found, sweep.device) if sweep.device else (found, ())
    measured = timed(found, sweep.threads, beside)
    mine = own.tasks(sweep.images, sweep.questions, download=sweep.download)
    every = choose(sweep.tasks, sweep.data, measured, mine, download=sweep.download)
    _check_timed(measured, every)
    check_planned(sweep.gates, every)
    tasks = [_limited(task, sweep.limit) for task in every]
    data = _Data(sweep.data)
    if sweep.ray is None:
        preflight.check(measured, tasks, data.of, work)
    for task in tasks:
        data.of(task)
    with (
        file_errors(work or cache_folder()),
        _folder(work) as folder,
        _Run(sweep, on_devices(measured, sweep.devices), tasks, folder, data, executor or _executor(sweep)) as run,
    ):
        run.progress = progress or Progress()
        run.phase("reference", run.full_precision)
        run.phase("accuracy and fidelity", run.quality)
        run.phase("coarser controls", run.coarsen_controls)
        run.phase("latency", run.rounds)
        said = (*notes(measured, tasks, sweep.tuned), *left_out, *run.notes)
        return Results(run.records(), dict(run.phases), said if sweep.controls else (*said, "no control was asked for"))


def _check(sweep: Sweep) -> None:
    if sweep.rounds < 1:
        raise UsageError(f"{sweep.rounds} rounds", allowed="1 or more")
    if sweep.limit is not None and sweep.limit < 1:
        raise UsageError(f"a limit of {sweep.limit} samples", allowed="1 or more")
    if sweep.devices and sweep.ray is None:
        raise UsageError("devices by their tags are machines of a cluster", remedy="name its address: --ray ADDRESS")
    if (sweep.peers or sweep.threads) and sweep.ray is not None:
        raise UsageError(
            "peers and numbers of threads are timed on one machine, and cells of a cluster run on any",
            remedy="time them on each machine by itself, without --ray",
        )
    if sweep.tuned and sweep.ray is not None:
        raise UsageError(
            "what edgekit tune chose holds for one machine, and cells of a cluster run on any",
            remedy="measure tuned rows on each machine by itself, without --ray",
        )


def _check_timed(measured: Sequence[Subject], tasks: Sequence[Task]) -> None:
    """Raise UsageError where there are rows that are only timed, and no task that measures times."""
    rows = [(subject, row) for subject in measured for row in subject.timed]
    if rows and not any(task.in_rounds and fits(task, subject) for subject, _ in rows for task in tasks):
        said = f"{rows[0][1].name} is only timed, and none of these tasks measures times"
        raise UsageError(said, remedy="--task latency beside them")


def _limited(task: Task, limit: int | None) -> Task:
    return task if limit is None or task.limit <= limit else task.model_copy(update={"limit": limit})


def _executor(sweep: Sweep) -> Executor:
    if sweep.ray is None:
        return Local()
    if find_spec("ray") is None:
        remedy = "pip install 'edgekit[ray]', on every machine of the cluster"
        raise UsageError("Ray is not installed here", remedy=remedy)
    from edgekit.bench.execute.ray import Cluster

    return Cluster(sweep.ray)


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
        self._read: dict[tuple[str | DatasetSource, int, int], Dataset] = {}
        self._attributed: dict[str | DatasetSource, dict[str, str]] = {}

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
    """The state of one benchmark: its rows, outcomes, and finished cells on disk.

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
        self.progress, self._phase = Progress(), ""
        self._data, self._executor, self._ledger = data, executor, Ledger(work)
        self._left, self._lock = work / "reference", threading.Lock()
        self._named: dict[str, str] = {}  # row -> what people call it
        self._said: set[tuple[str, str]] = set()  # row, error

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
        compared = [(s, [task for task in self._tasks(s) if task.needs_full_precision]) for s in self.subjects]
        current = {self._stored(subject, task) for subject, tasks in compared for task in tasks}
        if self._left.is_symlink():
            raise ArtifactError(f"{self._left}: is a link", remedy="remove it")
        for path in self._left.glob("*"):
            if path.name.split(".")[0] not in current:  # of other code or data; a full-size one takes gigabytes
                path.unlink()
        self._execute([self._cell(s, s.rows[0], tasks, leaves=True) for s, tasks in compared if tasks])

    def quality(self) -> None:
        """Accuracy of all rows, fidelity of all but full precision; of a control what decides whether it stays."""
        if self.sweep.controls:
            self._add_controls(self.subjects, self.sweep.controls[0])
            if few := [task.name for task in self.tasks if _judges(task) and self._too_few(task)]:
                self.notes.append(
                    f"no control was run on {', '.join(few)}: fewer than {FEWEST_SAMPLES} samples show no damage"
                )
        cells = []
        for subject in self.subjects:
            for row in self.rows[subject.folder]:
                done = row.model.is_full_precision  # in the phase before
                tasks = [task for task in self._tasks(subject) if not (done and task.needs_full_precision)]
                if row.kind == "control":
                    tasks = [task for task in self._of_control(subject) if _judges(task)]
                cells.append(self._cell(subject, row, tasks))
        self._execute(cells)

    def coarsen_controls(self) -> None:
        """Where a control shows nothing, take coarser ones, down the ladder, on the tasks that could show one.

        The last one's fidelity is measured when it is known which that is.
        """
        shown = self.sweep.controls[:1]
        hidden = list(self.subjects) if shown else []
        for coarser in self.sweep.controls[1:]:
            hidden = [subject for subject in hidden if self._hides_damage(subject)]
            able = [subject for subject in hidden if self._able_to_show(subject)]
            for subject in hidden:
                if subject not in able:
                    self.notes.append(f"{subject.manifest.title}: {_UNABLE}")
            hidden = able
            self.notes += [f"{s.manifest.title}: a control at {shown[0]} showed no drop in accuracy" for s in hidden]
            self._add_controls(hidden, coarser)
            self._execute([self._cell(s, self.rows[s.folder][-1], self._able_to_show(s)) for s in hidden])
            shown = [coarser]
        last = [(s, self.rows[s.folder][-1]) for s in self.subjects]
        controls = [(subject, row) for subject, row in last if row.kind == "control"]
        self._execute([self._cell(s, row, [t for t in self._of_control(s) if not _judges(t)]) for s, row in controls])

    def rounds(self) -> None:
        """Rounds interleaved over rows, one process at a time, so that a busy minute hits every row alike."""
        pairs = [(s, row, self._tasks(s, in_rounds=True)) for s in self.subjects for row in (*s.rows, *s.timed)]
        cells = [self._cell(*pair, number=number) for number in range(self.sweep.rounds) for pair in pairs]
        self._execute(cells, alone=True)

    def records(self) -> tuple[Record, ...]:
        """The records of all rows from their outcomes."""
        rows = ((subject, row) for subject in self.subjects for row in (*self.rows[subject.folder], *subject.timed))
        return corrected([self._record(subject, row) for subject, row in rows])

    def _execute(self, cells: Sequence[Cell], *, alone: bool = False) -> None:
        """Run cells; what an earlier run finished of them was left out."""
        cells = [cell for cell in cells if cell.tasks]
        if cells:
            self.progress.start(f"measuring {self._phase}", sum(len(cell.tasks) for cell in cells))
            self._executor.run(cells, self._take, alone=alone)

    def _add_controls(self, measured: Sequence[Subject], rounding: Rounding) -> None:
        """Give each subject a control row, in place of one that it has; none where it has nothing to show."""
        for subject in measured:
            if (row := subject.control(rounding)) and self._of_control(subject):
                self.rows[subject.folder] = (*subject.rows, row)

    def _hides_damage(self, subject: Subject) -> bool:
        last = self._record(subject, self.rows[subject.folder][-1])
        return any(control.blind for control in damage([last]))

    def _able_to_show(self, subject: Subject) -> list[Task]:
        exact = self._record(subject, subject.rows[0])
        return [task for task in self._of_control(subject) if _judges(task) and could_show(exact.of(task.name))]

    def _record(self, subject: Subject, row: TableRow) -> Record:
        measured: list[Measurement] = []
        for task in self.tasks:
            if outcomes := self._ledger.of(row.id, task.name):
                exact = self._ledger.of(subject.rows[0].id, task.name) if subject.source else None
                good = exact[0] if exact else None
                measured.append(self._measurement(task, row, outcomes, good))
        return record(subject, row, measured, self._here(row))

    def _measurement(
        self, task: Task, row: TableRow, outcomes: Sequence[Outcome], exact: Outcome | None
    ) -> Measurement:
        """The figures of a task on a row; where none follow from what came in (data of one class alone), the reason."""
        given, whose, here = self._data.of(task), self._data.attribution(task), self._here(row)
        try:
            return measurement(task, row, given, outcomes, exact, here, whose)
        except (AttributeError, EdgekitError, LookupError, TypeError, ValueError) as error:  # a result of any shape
            self._ledger.remove(row.id, task.name)
            seconds = sum(outcome.seconds for outcome in outcomes)
            why = Outcome(task.name, None, seconds, f"no figure follows from what was measured: {error}")
            return measurement(task, row, given, [why], None, here, whose)

    def _here(self, row: TableRow) -> Environment:
        return self._executor.environment(row.device)

    def _tasks(self, subject: Subject, *, in_rounds: bool = False) -> list[Task]:
        return [task for task in self.tasks if task.in_rounds == in_rounds and fits(task, subject)]

    def _of_control(self, subject: Subject) -> list[Task]:
        """A control's tasks: fidelity, and those of which enough is asked that damage could show."""
        return [task for task in self._tasks(subject) if task.needs_full_precision or not self._too_few(task)]

    def _too_few(self, task: Task) -> bool:
        return len(self._data.of(task).samples) < FEWEST_SAMPLES

    def _stored(self, subject: Subject, task: Task) -> str | None:
        """The name of the files that the full-precision model leaves for a task."""
        if not task.needs_full_precision:
            return None
        exact = subject.rows[0]
        return cell_key(task, exact, self._data.of(task).sha256, self._here(exact))

    def _cell(
        self, subject: Subject, row: TableRow, tasks: Sequence[Task], *, leaves: bool = False, number: int = 0
    ) -> Cell:
        """The cell of a row in a round; tasks whose outcome an earlier run wrote are taken from there."""
        self._named[row.id] = f"{subject.manifest.title}, {row.name}"
        here, listed, width = self._here(row), [], None
        for task in tasks:
            width = None if task.in_rounds else threads(subject.weights, here)
            stored, data_sha256 = self._stored(subject, task), self._data.of(task).sha256
            key = identity(cell_key(task, row, data_sha256, here), number, width)
            if leaves and stored and seals.broken(self._left, stored):
                seals.remove(self._left, stored)
                self._ledger.forget(key)
            if not self._ledger.expect(row.id, task.name, number, key):
                listed.append(CellTask(task.model_dump(mode="json"), stored, data_sha256))
        data = str(self.sweep.data.resolve()) if self.sweep.data else None
        return Cell(
            row.id,
            row.model,
            tuple(listed),
            subject.weights,
            str(self._left),
            data,
            leaves,
            threads=width,
            round=number,
            device=row.device,
        )

    def _take(self, cell: Cell, outcome: Outcome) -> None:
        """An outcome comes in, from any thread."""
        if not self._ledger.take(cell, outcome):
            return
        with self._lock:
            if outcome.error is not None and (cell.row, outcome.error) not in self._said:
                self._said.add((cell.row, outcome.error))  # a model that does not open says so for every task
                self.progress.note(f"{self._named[cell.row]}, {outcome.task}: {outcome.error}")
            self.progress.advance()


_UNABLE = (
    "no coarser control was run: full precision itself does no better than always giving the most frequent answer, so "
    "no damage could show"
)


def _judges(task: Task) -> bool:
    """Whether a control's damage is looked for in this task's figures, as `results.damage` does."""
    return task.headline == "accuracy"

