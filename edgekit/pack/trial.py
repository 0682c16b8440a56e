"""The self-test of a slot, run by the slot's own environment: `python -P -m edgekit.machine.worker THIS:run`.

The installer may be another version of edgekit than the one that is tried. What they agree on is this name, the job
and that a failure is the last line on standard error; all three stay. What is yielded meanwhile is for whoever waits:
an installer does without what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def run(job: Mapping[str, str]) -> Iterator[Any]:
    """Ask the model what it was asked where it was packed.

    Args:
        job: `golden` and `model`, two folders, and `level`.

    Yields:
        `{"question": 2, "of": 4}` before each is asked, and `ok` at the end.

    Raises:
        BundleError: it answers something else, or not at all.
    """
    from edgekit.pack import golden

    for number, total in golden.checking(Path(job["golden"]), Path(job["model"]), job["level"]):
        yield {"question": number, "of": total}
    yield "ok"
