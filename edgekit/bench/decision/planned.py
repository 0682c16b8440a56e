"""Gates before anything is measured: a misspelled name must not cost a whole run.

What a run gives is known when it has ended, so only what no planned task can give is refused here: a name that begins
with none of its figures' names, as `kl_p99` begins with `kl`. `gates.check_known` looks at the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bench.decision.gates import Gate
from edgekit.bench.kinds import Task
from edgekit.errors import unknown

_OF_FILES = ("size_bytes", "memory_bytes", "bits_per_weight")
_UNITS = ("_ms", "_s", "_bytes", "_mb", "_gb")


def check_planned(asked: Sequence[Gate], tasks: Sequence[Task]) -> None:
    """Raise UsageError for a gate on a task that does not run, or on a figure that none of them gives."""
    for gate in asked:
        if gate.task is not None and gate.task not in [task.name for task in tasks]:
            raise unknown("task in a gate", gate.task, [task.name for task in tasks])
        names = [name for task in tasks if gate.task in (None, task.name) for name in _names(task)]
        known = list(dict.fromkeys([*names, *([] if gate.task else _OF_FILES)]))
        if not any(f"{gate.figure}_".startswith(f"{_without_unit(name)}_") for name in known):
            raise unknown("figure in a gate", gate.figure, known)


def _names(task: Task) -> list[str]:
    headline = [task.headline, f"{task.headline}_drop"] if task.headline else []
    return [*headline, *(column.figure for column in task.columns), *task.figures]


def _without_unit(name: str) -> str:
    unit = next((unit for unit in _UNITS if name.endswith(unit) and not name.endswith("_per_s")), "")
    return name.removesuffix(unit)
