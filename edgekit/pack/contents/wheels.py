"""The wheels: what an installation takes, so that it needs Python alone, no network and no compiler."""

from __future__ import annotations

from edgekit.pack.bundle import WHEELS
from edgekit.pack.contents.base import Content, Gathering
from edgekit.pack.wheelhouse import Wanted, gather


def write(gathering: Gathering) -> None:
    """Write edgekit's own wheel, those of what it needs, and for a GGUF file a build of llama.cpp for each level."""
    target = gathering.target
    assert target is not None, "a repository of the hub has no wheels"
    levels = target.cpu if any(part.format == "gguf" for part in gathering.parts.values()) else ()
    wanted = Wanted(target.platform, levels, target.python, given=target.wheelhouse, download=target.download)
    gather(wanted, gathering.staging / WHEELS, gathering.progress)


CONTENT = Content("gathering wheels", 5, write, installs=True)
