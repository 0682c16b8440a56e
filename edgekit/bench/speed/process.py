"""What one process of a row gives: its timings, and beside them memory, conditions, shares of the machine's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit.bench.cells import Cell
from edgekit.bench.speed.operations import operations, shares
from edgekit.bench.speed.surroundings import limits
from edgekit.bench.speed.timing import Timed
from edgekit.errors import EdgekitError
from edgekit.machine.cpu import cpu
from edgekit.machine.disturbance import watched
from edgekit.machine.memory import peak_memory_bytes
from edgekit.machine.residence import Peaks, peaks


def measured(time: Callable[[], Timed], runtimes: Mapping[str, str], cell: Cell | None) -> dict[str, Any]:
    """Time this process's model, and what it holds and what else happens meanwhile.

    Args:
        runtimes: what runs it, role by role.
        cell: where it stands in the benchmark, None outside of one.
    """
    started = datetime.now(UTC)
    with watched() as conditions, peaks() as held:
        timed = time()
    figures = timed.figures | memory(held) | {"peak_memory_bytes": float(peak_memory_bytes())}
    return {
        "figures": figures,
        "samples": timed.samples,
        "prompt_tokens": timed.amounts.prompt_tokens,
        "steps": timed.amounts.steps,
        "conditions": {**asdict(conditions), "disturbed": conditions.disturbed},
        "runtimes": dict(runtimes),
        "started": started.isoformat(timespec="seconds"),
        **limited(figures, cell),
    }


def memory(held: Peaks) -> dict[str, float]:
    """A process's own memory and what it mapped, where the system tells them apart."""
    return {"own_memory_bytes": float(held.own), "mapped_memory_bytes": float(held.mapped)} if held.own else {}


def limited(figures: dict[str, float], cell: Cell | None) -> dict[str, Any]:
    """Number of threads and the machine's limits; the figures' shares of those are added to them."""
    if cell is None:
        return {"threads": cpu().usable_cores, "limits": None}
    threads, found = cell.model.threads or cpu().usable_cores, limits(Path(cell.work))
    if cell.model.level is not None:
        with suppress(EdgekitError):  # a shape that cannot be read costs these figures alone
            costs = operations(Path(cell.model.folder), cell.model.level)
            figures.setdefault("file_bytes", float(costs.file_bytes))
            figures.update(dict(shares(costs, figures, found)) if found else {})
    return {"threads": threads, "limits": found and found.to_json()}
