"""What an open model is to be used for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.runtime.parts import CacheType, RunOptions

Sees = Literal["at once", "later", "never"]


@dataclass(frozen=True)
class Use:
    """How much of a model is loaded, for how many, and what stays of them.

    Attributes:
        slots: answers that a chat model can have under way at once, each with the whole context.
        cache_type: what its keys and values are rounded to: `f16`, or `q8_0`, of half the size; for None as a device's
            plan says, `f16` without one.
        sees: when its encoder of images is loaded: `at once`, `later`, with the first image whose embeddings are not
            known, or `never`, for texts alone.
        keep: whether embeddings of images stay on disk, see `edgekit.machine.kept`; they derive from patients.
    """

    slots: int = RunOptions.sequences
    cache_type: CacheType | None = None
    sees: Sees = "at once"
    keep: bool = False
