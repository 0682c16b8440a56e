"""Cells: independent pieces of a benchmark, each a JSON document in and JSON lines out, run in a process of its own.

A process of its own gives every row the same start, a peak memory that is its own, and a crash that takes nothing
with it. Nothing in a cell refers to the process that made it, and each folder is named with the hash of what must be
in it, so cells can run anywhere the same files are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgekit.artifacts.files import sha256_json
from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Control:
    """The part of a full-precision model that is damaged, and how (`controls.Rounding`)."""

    role: str
    bits: int
    scale: Literal["row", "tensor"]


@dataclass(frozen=True)
class PeerRef:
    """Another program that is given a model in place of edgekit (`edgekit.bench.peers`).

    Attributes:
        name: of the peer.
        program: the Python of its environment, or its own program.
        source: the checkpoint that its own converter starts from; None where it is not here.
        made: the folder that keeps what the converter writes.
        setting: which of its settings.
        version: of a program that pip does not have, which does not say it by itself while it runs.
    """

    name: str
    program: str
    source: str | None
    made: str
    setting: str = ""
    version: str = ""


@dataclass(frozen=True)
class ModelRef:
    """Which model a worker opens.

    Attributes:
        folder: an artifact's, or a checkpoint's for the full-precision model and its damaged copies.
        level: the variant of an artifact; None for a checkpoint.
        control: the damage of a control row.
        tuned: whether a variant runs as `edgekit tune` chose on this machine, as it does for users.
        content: hash of what is opened (`subjects.content`), by which another machine knows its copy; empty where
            nobody looks.
        bfloat16: whether the full-precision model runs in bfloat16, for the noise floor.
        threads: how many a variant or a peer computes with; as many as there are cores for None.
        peer: which other program opens it.
        device: whose plan a variant obeys; None for this machine alone.
    """

    folder: str
    level: str | None = None
    control: Control | None = None
    tuned: bool = False
    content: str = ""
    bfloat16: bool = False
    threads: int | None = None
    peer: PeerRef | None = None
    device: str | None = None

    @property
    def is_full_precision(self) -> bool:
        """Whether it is a checkpoint as it is."""
        return self.level is None and self.control is None and self.peer is None

    @classmethod
    def of(cls, job: dict[str, Any]) -> ModelRef:
        """The model of a job."""
        control = Control(**job["control"]) if job["control"] else None
        peer = PeerRef(**job["peer"]) if job["peer"] else None
        return cls(**{**job, "control": control, "peer": peer})


@dataclass(frozen=True)
class CellTask:
    """One task of a cell.

    Attributes:
        data: the task's, as its file has it.
        stored: name of the files that the full-precision model leaves for it; None where nothing is compared.
        data_sha256: of the data set that it must be measured on; empty where nobody looks.
    """

    data: dict[str, Any]
    stored: str | None = None
    data_sha256: str = ""

    @property
    def name(self) -> str:
        """The task's."""
        return str(self.data["name"])


@dataclass(frozen=True)
class Cell:
    """What one process does: open one row's model, and run these tasks on it in order.

    Attributes:
        row: key of the row.
        weights: how many weights are loaded at most, which says how much memory it may take.
        work: the folder of what the full-precision model leaves.
        data: the user's data folder.
        leaves: whether this is the full-precision model's own cell, which leaves its results for the others.
        threads: how many cores it computes with, since sums depend on how they are shared out; None for all.
        cores: which ones, as the executor chose; None for any.
        round: of tasks that are measured in rounds, counted from 0.
        device: the tag of the machines that it must run on, None for any.
    """

    row: str
    model: ModelRef
    tasks: tuple[CellTask, ...]
    weights: int
    work: str
    data: str | None = None
    leaves: bool = False
    threads: int | None = None
    cores: tuple[int, ...] | None = None
    round: int = 0
    device: str | None = None

    def job(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, job: dict[str, Any]) -> Cell:
        """The cell of `job`."""
        tasks = tuple(CellTask(**task) for task in job["tasks"])
        cores = None if job["cores"] is None else tuple(job["cores"])
        return cls(**{**job, "model": ModelRef.of(job["model"]), "tasks": tasks, "cores": cores})


@dataclass(frozen=True)
class Outcome:
    """What one task of a cell gave: its result, or why there is none."""

    task: str
    result: Any
    seconds: float
    error: str | None = None


def complete(cell: Cell, run: Callable[[Cell], Iterator[Outcome]]) -> Iterator[Outcome]:
    """One outcome for each of a cell's tasks.

    A process that dies takes the figure of the task at which it died; the tasks behind that run in another one.

    Args:
        run: gives the outcomes of a cell in its tasks' order, and raises EdgekitError where the process dies.
    """
    left, alive = list(cell.tasks), True
    while left and alive:
        why = "it was not finished"
        alive = False
        try:
            for outcome in run(replace(cell, tasks=tuple(left))):
                left = [task for task in left if task.name != outcome.task]
                yield outcome
        except EdgekitError as error:
            why, alive = str(error), True
        if left and alive:
            yield Outcome(left.pop(0).name, None, 0.0, why)
    for task in left:
        yield Outcome(task.name, None, 0.0, why)


def identity(*parts: Any) -> str:
    """A key: the hash of what a result depends on."""
    return sha256_json(parts)
