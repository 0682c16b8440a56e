"""edgekit: MedGemma and MedSigLIP on the edge: convert, prove, serve, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.version import __version__
from edgekit.machine import privacy

privacy.keep()  # before any library is imported that would report to its makers

if TYPE_CHECKING:
    from edgekit.runtime.base import Model

__all__ = ["__version__", "open"]


def open(  # noqa: A001
    artifact: str | Path, level: str | None = None, device: str | None = None, runtime: str | None = None
) -> Model:
    """Open one level of an artifact folder; see `edgekit.runtime.open_model`."""
    from edgekit.runtime import open_model

    return open_model(Path(artifact), level, device, runtime=runtime)
