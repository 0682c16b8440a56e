"""Vectors of an archive by the machines of a Ray cluster.

    pip install 'edgekit[ray]'                 # on every machine, with the artifact and the archive at the same paths
    ray start --head                           # and on the others: ray start --address HEAD:6379
    edgekit index ./medsiglip /archive --to ./index --ray auto        # on a machine of the cluster

A machine takes part if it has the same model and its vector of a picture that all have is ours, but for rounding. What
a machine that is lost had not given is made by another one; a file that is another one there than here is an error.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from edgekit.artifacts.version import __version__
from edgekit.errors import EdgekitError, InputError
from edgekit.machine.ray_cluster import join
from edgekit.retrieval.vectors import FileVectors, How, Vector, of_file, probe
from edgekit.runtime import open_model
from edgekit.terminal import say

ALIKE = 0.9999  # cosine of two machines' vectors of the probe: rounding leaves 1 - 1e-6, another arithmetic does not
_START_S = 600.0  # a large model from a slow disk
_AHEAD = 2  # files of a machine: one at work, one that waits
_MOST_LOSSES = 3  # of machines under one file: it may be what ends them


@dataclass(frozen=True)
class Opening:
    """What `open_model` takes; the folder is the same on every machine."""

    folder: Path
    level: str | None = None
    device: str | None = None
    context: int | None = None
    runtime: str | None = None


class Worker:
    """What runs on each machine, for one command."""

    def __init__(self) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray says 1
        self._how: How | None = None

    def open(self, opening: Opening, how: How) -> dict[str, Any]:
        """Open the model; what it is, and what it makes of the probe. Or the error that says why it cannot."""
        self._how = how
        try:
            self._model: Any = open_model(**asdict(opening))
            return _described(self._model)
        except EdgekitError as error:
            return {"error": str(error)}

    def embed(self, path: str) -> tuple[list[tuple[str, Vector | str]], str, str]:
        """The rows of a file, an error in words; its hash; its patient's."""
        assert self._how is not None
        made = of_file(self._model, Path(path), self._how)
        rows = [(name, row.message if isinstance(row, InputError) else row) for name, row in made.rows]
        return rows, made.sha256, made.patient


@dataclass(eq=False)
class _Machine:
    address: str
    worker: Any
    at_work: set[Any] = field(default_factory=set)


class Cluster:
    """Makes vectors on all machines of a cluster that have the model.

    Args:
        address: as `edgekit.machine.ray_cluster.join` takes it.
        model: the model as it is open here, with which those of the machines are compared.

    Raises:
        UsageError: there is no such cluster.
        EdgekitError: none of its machines has the model.
    """

    def __init__(self, address: str, opening: Opening, how: How, model: Any) -> None:
        self._ours = join(address)
        self._machines = _machines(opening, how, _described(model))
        if not self._machines:
            self._end()
            raise EdgekitError("no machine of the cluster takes part", remedy="see what was said of each, above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._machines:
            ray.kill(one.worker)
        self._end()

    def _end(self) -> None:
        if self._ours:
            ray.shutdown()

    def __call__(self, paths: Iterable[Path]) -> Iterator[FileVectors]:
        """See `Embedder`; in the order in which machines finish."""
        waiting, losses = deque(paths), Counter[Path]()
        asked: dict[Any, tuple[_Machine, Path]] = {}
        while waiting or asked:
            self._ask(waiting, asked)
            if not asked:
                raise EdgekitError("all machines of the cluster were lost", remedy="the same command goes on")
            (done, *_), _ = ray.wait(list(asked))
            machine, path = asked.pop(done)
            machine.at_work.discard(done)
            try:
                rows, digest, patient = ray.get(done)
            except RayTaskError as error:
                raise EdgekitError(f"{machine.address}: {path}: {str(error).strip().splitlines()[-1]}") from error
            except RayError:
                self._lose(machine)
                losses[path] += 1
                if losses[path] < _MOST_LOSSES:
                    waiting.appendleft(path)
                    continue
                why = f"{_MOST_LOSSES} machines were lost while it was read"
                rows, digest, patient = [(str(path.absolute()), why)], "", ""
            yield FileVectors(path, tuple(_as_named_here(path, *row) for row in rows), digest, patient)

    def _ask(self, waiting: deque[Path], asked: dict[Any, tuple[_Machine, Path]]) -> None:
        """Give every machine as many files as it may have."""
        for _ in range(_AHEAD):
            for machine in self._machines:
                if waiting and len(machine.at_work) < _AHEAD:
                    path = waiting.popleft()
                    reference = machine.worker.embed.remote(str(path.absolute()))
                    machine.at_work.add(reference)
                    asked[reference] = machine, path

    def _lose(self, machine: _Machine) -> None:
        if machine in self._machines:
            self._machines.remove(machine)
            say(f"{machine.address} was lost; {len(self._machines)} machines go on")


def _as_named_here(path: Path, name: str, row: Vector | str) -> tuple[str, Vector | InputError]:
    """A row of a file whose whole path a machine was given, under the name that it has here."""
    named = str(path) + name.removeprefix(str(path.absolute()))
    return named, InputError(row) if isinstance(row, str) else row


def _machines(opening: Opening, how: How, expected: dict[str, Any]) -> list[_Machine]:
    """Every machine that makes what we make; why another one does not is said."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": where}
            found.append(_Machine(node["NodeManagerAddress"], ray.remote(Worker).options(**options).remote()))
    opened = [one.worker.open.remote(opening, how) for one in found]
    fitting = []
    for machine, reference in zip(found, opened, strict=True):
        try:
            problem = _problem(ray.get(reference, timeout=_START_S), expected)
        except RayError as error:
            problem = f"it does not answer: {str(error).strip().splitlines()[-1]}"
        if problem:
            say(f"{machine.address} takes no part: {problem}")
        else:
            fitting.append(machine)
    return fitting


def _described(model: Any) -> dict[str, Any]:
    """What vectors depend on beside the pictures."""
    return {"version": __version__, "parts": dict(model.parts), "probe": probe(model)}


def _problem(said: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Why a machine's vectors would not be ours."""
    if "error" in said:
        return str(said["error"])
    if said["version"] != expected["version"]:
        return f"it has edgekit {said['version']}, not {expected['version']}"
    if said["parts"] != expected["parts"]:
        return "its artifact is another one"
    alike = float(np.dot(said["probe"], expected["probe"]))
    return None if alike >= ALIKE else f"its vector of the same picture differs: cosine {alike:.6f}, not {ALIKE}"
