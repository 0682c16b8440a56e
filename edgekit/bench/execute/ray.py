"""Cells on the machines of a Ray cluster.

    pip install 'edgekit[ray]'                            # on every machine, with the same artifacts, data and extras
    ray start --head                                      # and on the others: ray start --address HEAD:6379
    ray start --address HEAD:6379 --resources '{"device:raspberry-pi-5": 1}'
    edgekit bench medgemma --ray auto --on raspberry-pi-5 --to measured      # on a machine of the cluster

Without `--on`, cells run on the machines that have no tag of a device, or on all where each has one; with it, levels
run on the machines of that tag, and full precision on the others. Machines on which a row may run have to be alike:
one row, one kind of machine. A machine that is lost costs no figure: its cells run again elsewhere, and what it had
reported stands. The benchmark takes the machines' cores as its own.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from edgekit.artifacts.files import make_folder, replacing
from edgekit.bench.cells import Cell, Outcome, complete
from edgekit.bench.environment import Environment
from edgekit.bench.execute import Receiver, side_by_side
from edgekit.bench.execute.room import Room
from edgekit.bench.execute.station import Station, pieces, sizes, with_own_file
from edgekit.errors import EdgekitError, UsageError
from edgekit.machine.ray_cluster import join

_TAG = "device:"
_START_S = 120.0
_END_S = 10.0
_MOST_LOSSES = 5  # of machines under one cell: it may be what ends them
_AT_ONCE = 64  # calls of one machine: cells, and pieces of files
_PIECES = 4  # that are under way from a machine


@dataclass(frozen=True)
class _Machine:
    """One of the cluster's."""

    address: str
    tags: frozenset[str]
    station: Any
    environment: Environment


class Cluster:
    """Runs cells on the machines that a cluster has when the benchmark begins.

    Args:
        address: as `edgekit.machine.ray_cluster.join` takes it.

    Raises:
        UsageError: there is no such cluster.
        EdgekitError: none of its machines answers.
    """

    def __init__(self, address: str) -> None:
        self._ours = join(address)
        self._root, self._stopped = Path.cwd(), False
        self._machines = _machines(self._root)
        self._room = Room(
            {name: (one.environment.cores, one.environment.memory_bytes) for name, one in self._machines.items()}
        )
        self._known: dict[str | None, Environment] = {}
        self._sending: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def environment(self, device: str | None) -> Environment:
        """See `Executor.environment`. Of machines that differ in their memory, the smallest."""
        if device not in self._known:
            self._known[device] = self._common(device)
        return self._known[device]

    def _common(self, device: str | None) -> Environment:
        found = {name: self._machines[name] for name in self._fitting(device)}
        if not found:
            known = sorted(tag for one in self._machines.values() for tag in one.tags)
            raise UsageError(
                f"no machine of the cluster has the resource {_TAG}{device}",
                allowed=", ".join(known) or "none has a device's tag",
                remedy=f"ray start --resources '{{\"{_TAG}{device}\": 1}}' on that machine",
            )
        first = min(found.values(), key=lambda one: one.environment.memory_bytes)
        for other in found.values():
            if different := _differences(first.environment, other.environment):
                raise UsageError(
                    f"{first.address} and {other.address} differ in {', '.join(different)}, so figures would depend on "
                    "where a cell runs",
                    remedy=f"install the same on both; for machines of two kinds, tag them ({_TAG}NAME) and name one "
                    "with --on NAME",
                )
        return first.environment

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        """See `Executor.run`; what counts is one cell at a time on each device."""
        slow_first = sorted(cells, key=lambda cell: cell.model.level is not None)
        queues = _by_device(cells) if alone else [[cell] for cell in slow_first]
        width = sum(one.environment.cores for one in self._machines.values())

        def one_after_the_other(queue: Sequence[Cell]) -> None:
            for cell in queue:
                for outcome in complete(cell, self._outcomes):
                    if outcome.error is None or not self._stopped:  # interrupted is not failed
                        report(cell, outcome)

        side_by_side(one_after_the_other, queues, max(1, min(len(queues), width)), self.stop)

    def stop(self) -> None:
        """See `Executor.stop`."""
        if self._stopped:
            return
        self._stopped = True
        for name in self._machines:
            self._room.lose(name)
        ending = [one.station.close.remote() for one in self._machines.values()]
        for reference in ending:
            with suppress(RayError, GetTimeoutError):
                ray.get(reference, timeout=_END_S)
        for one in self._machines.values():
            ray.kill(one.station)
        if self._ours:
            ray.shutdown()

    def _fitting(self, device: str | None) -> list[str]:
        """The machines that cells of a tag may run on, in a fixed order."""
        every = sorted(self._machines)
        if device is not None:
            return [name for name in every if device in self._machines[name].tags]
        return [name for name in every if not self._machines[name].tags] or every

    def _outcomes(self, cell: Cell) -> Iterator[Outcome]:
        """Run a cell on some machine, and on another one what a machine that is lost left undone."""
        left = cell
        for _ in range(_MOST_LOSSES):
            if self._stopped:
                return
            among = self._fitting(cell.device)
            with self._room.place(left, among) as (name, cores):
                try:
                    for outcome in self._on(self._machines[name], replace(left, cores=cores)):
                        left = replace(left, tasks=tuple(t for t in left.tasks if t.name != outcome.task))
                        yield outcome
                except RayTaskError as error:
                    where = self._machines[name].address
                    raise EdgekitError(f"{where}: {str(error).strip().splitlines()[-1]}") from error
                except RayError:
                    self._room.lose(name)
                else:
                    return
        raise EdgekitError(f"{_MOST_LOSSES} machines were lost while it ran")

    def _on(self, machine: _Machine, cell: Cell) -> Iterator[Outcome]:
        """A cell on this machine. Of one that leaves files, outcomes come when those are here."""
        stored, work = [task.stored for task in cell.tasks if task.stored], Path(cell.work)
        for name in stored:
            self._push(machine, work, name)
        came = []
        work_of = machine.station.work.options(num_returns="streaming")
        for reference in work_of.remote(_travelling(cell, self._root).job()):
            result = ray.get(reference)
            if "died" in result:
                raise EdgekitError(result["died"])
            if not cell.leaves:
                yield Outcome(**result)
            came.append(Outcome(**result))
        if cell.leaves:
            for name in stored:
                _pull(machine, work, name)
            yield from came

    def _push(self, machine: _Machine, work: Path, stored: str) -> None:
        """Give a machine the files that it lacks of those that the full-precision model left."""
        with self._sending[machine.address]:
            there = ray.get(machine.station.sizes.remote(stored))
            for name, size in sizes(work, stored).items():
                if there.get(name) == size:
                    continue
                sent, first = 0, True
                for piece in pieces(work / name):
                    sent += len(piece)
                    ray.get(machine.station.receive.remote(name, piece, first=first, last=sent >= size))
                    first = False


def _pull(machine: _Machine, work: Path, stored: str) -> None:
    """Fetch what the full-precision model left on a machine and is not here."""
    make_folder(work)
    here = sizes(work, stored)
    for name, size in ray.get(machine.station.sizes.remote(stored)).items():
        if here.get(name) == size:
            continue
        how = {"num_returns": "streaming", "_generator_backpressure_num_objects": _PIECES}
        with replacing(work / name) as temporary, temporary.open("wb") as stream:
            for reference in machine.station.send.options(**how).remote(name):
                stream.write(ray.get(reference))


def _machines(root: Path) -> dict[str, _Machine]:
    """Every machine of the cluster that answers, by its node's id."""
    stations: dict[str, tuple[dict[str, Any], Any]] = {}
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": _AT_ONCE, "scheduling_strategy": where}
            stations[node["NodeID"]] = node, ray.remote(Station).options(**options).remote(str(root))
    asked = {name: station.environment.remote() for name, (_, station) in stations.items()}
    found, problem = {}, "it has none"
    for name, (node, station) in stations.items():
        try:
            said = ray.get(asked[name], timeout=_START_S)
        except RayError as error:
            problem = str(error)
            continue
        tags = frozenset(key.removeprefix(_TAG) for key in node["Resources"] if key.startswith(_TAG))
        here = Environment(**{**said, "features": tuple(said["features"])})
        found[name] = _Machine(node["NodeManagerAddress"], tags, station, here)
    if not found:
        raise EdgekitError(f"no machine of the cluster answers: {problem}")
    return found


def _differences(one: Environment, other: Environment) -> list[str]:
    """What figures depend on and two machines do not have in common."""
    named = {
        "fingerprint": "CPU or cores",
        "code": "edgekit's code",
        "versions": "libraries",
        "metric_version": "metrics",
    }
    return [said for key, said in named.items() if getattr(one, key) != getattr(other, key)]


def _travelling(cell: Cell, root: Path) -> Cell:
    """The cell with paths that begin in `root`, where they lead there."""

    def relative(path: str) -> str:
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    model = replace(cell.model, folder=relative(cell.model.folder))
    tasks = tuple(replace(task, data=with_own_file(task.data, relative)) for task in cell.tasks)
    return replace(cell, model=model, tasks=tasks, data=cell.data and relative(cell.data))


def _by_device(cells: Sequence[Cell]) -> list[list[Cell]]:
    queues: dict[str | None, list[Cell]] = defaultdict(list)
    for cell in cells:
        queues[cell.device].append(cell)
    return list(queues.values())
