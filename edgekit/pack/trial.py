"""The self-test of a slot, run by the slot's own environment: `python -P -m edgekit.machine.worker THIS:run`.

The installer may be another version of edgekit than the one that is tried. What they agree on is this name, the job
and that a failure is the last line on standard error; all three stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path


def run(job: Mapping[str, str]) -> Iterator[str]:
    """Ask the model what it was asked where it was packed.

    Args:
        job: `golden` and `model`, two folders, and `level`.

    Raises:
        BundleError: it answers something else, or not at all.
    """
    from edgekit.pack import golden

    golden.check(Path(job["golden"]), Path(job["model"]), job["level"])
    yield "ok"
