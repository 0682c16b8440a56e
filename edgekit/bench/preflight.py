"""What a benchmark needs, looked at before it begins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edgekit.bench.datasets import Dataset
from edgekit.bench.kinds import Task
from edgekit.bench.plan import fits
from edgekit.bench.subjects import Subject
from edgekit.runtime.needs import Needs


def check(
    measured: Sequence[Subject], tasks: Sequence[Task], load: Callable[[Task], Dataset], work: Path | None
) -> None:
    """Libraries, data, memory, disk, the output folder, and whether every level opens.

    Args:
        load: reads a task's data.
        work: the folder that is written to; the system's temporary one for None.

    Raises:
        EdgekitError: something is missing; the message lists all of it.
    """
    needs = Needs()
    compared = [subject for subject in measured if subject.source is not None]
    if compared:
        # A task that streams is done in any memory; one that generates would read every weight for each token.
        whole = [s for s in compared if any(fits(task, s) and not task.streams for task in tasks)]
        most = max(map(_weights, whole), default=0)
        needs.full_precision(most, doing="comparing with full precision in tasks that do not stream it")
    for subject in measured:
        for row in subject.rows:
            if row.level is not None:
                needs.level(subject.folder, row.level)
    for task in tasks:
        needs.attempt(partial(load, task))
    # A folder between runs may keep what an earlier one left, which then is not written again: it is not counted off.
    left = sum(task.leaves_bytes(subject.manifest) for subject in compared for task in tasks if fits(task, subject))
    needs.place(work or Path(tempfile.gettempdir()), left)
    needs.check()


def _weights(subject: Subject) -> int:
    """How many the full-precision model has."""
    reference = subject.rows[0]
    return round(8 * (reference.bytes or 0) / reference.bits_per_weight) if reference.bits_per_weight else 0
