"""Limits on what a worker process may use, so that work on a hostile file ends it and nothing else."""

from __future__ import annotations

import sys
from contextlib import suppress

import psutil


def limit_this_process(memory: int, seconds: int) -> None:
    """Bound this process from now on. Beyond its memory, allocations fail; beyond its time, SIGXCPU ends it.

    Imports come first: they count for neither. Windows has no such limits; there, the parent's time limit remains.

    Args:
        memory: bytes of address space on top of what it has now.
        seconds: of computing on top of what it has done, waiting not counted.
    """
    if sys.platform == "win32":
        return
    import resource

    process = psutil.Process()
    used = process.cpu_times()
    spent = int(used.user + used.system) + seconds
    _lower(resource.RLIMIT_AS, process.memory_info().vms + memory)
    _lower(resource.RLIMIT_CPU, spent, spent + 1)  # equal ones end it by SIGKILL, which says nothing
    _lower(resource.RLIMIT_CORE, 0)  # nobody reads the memory image of a process that was meant to be able to die


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower both limits, since what was given up cannot be had again; a system that refuses goes without."""
    import resource

    limits = [soft, soft if hard is None else hard]
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        limits = [min(limit, most) for limit in limits]
    with suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS below what is mapped
        resource.setrlimit(kind, (limits[0], limits[1]))
