"""The self-test: what the packed model answers here."""

from __future__ import annotations

from edgekit.pack import golden
from edgekit.pack.bundle import GOLDEN
from edgekit.pack.contents.base import Content, Gathering


def write(gathering: Gathering) -> None:
    """Open the packed model and ask it. What the test sees little of is said.

    Raises:
        EdgekitError: it cannot be opened or asked on this machine.
    """
    made = golden.make(gathering.model, gathering.level, gathering.staging / GOLDEN)
    for unseen in made.unseen:
        gathering.progress.note(
            f"{unseen}: of this model they are about the same whatever it is asked, so that its "
            "self-test only shows that it opens and gives some"
        )


CONTENT = Content("asking the packed model", 20, write, installs=True)
