"""The self-test: what the packed model answers here."""

from __future__ import annotations

from edgekit.pack import golden
from edgekit.pack.bundle import GOLDEN
from edgekit.pack.contents.base import Content, Gathering


def write(gathering: Gathering) -> None:
    """Open the packed model and ask it. A test that can hardly fail is said.

    Raises:
        EdgekitError: it cannot be opened or asked on this machine.
    """
    made = golden.make(gathering.model, gathering.level, gathering.staging / GOLDEN)
    if not made.clear:
        gathering.progress.note(
            "no answer of this model is clearly ahead of others (random weights?): its self-test only shows that it "
            "opens and answers"
        )


CONTENT = Content("asking the packed model", 20, write, installs=True)
