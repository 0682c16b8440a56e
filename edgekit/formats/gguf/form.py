"""What a family states of one part for GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.formats.plan import PartPlan


@dataclass(frozen=True)
class GgufTensorForm:
    """One tensor in the file.

    Attributes:
        name: llama.cpp's.
        scale: what it is multiplied by (after its one is added), where llama.cpp assumes another constant.
    """

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class GgufForm:
    """One part.

    Attributes:
        architecture: `general.architecture`.
        header: adds the part's own keys to a `gguf.GGUFWriter`.
        argument: by which llama.cpp's programs are given the file.
        tensors: the validated configuration -> canonical tensor name -> its form.
        prefix: of the file's name, as llama.cpp's users know it.
        notes: what users should know before it is written.
    """

    architecture: str
    argument: str
    header: Callable[[Any, PartPlan], None]
    tensors: Callable[[Any], Mapping[str, GgufTensorForm]]
    prefix: str = ""
    notes: Callable[[Checkpoint], tuple[str, ...]] = lambda checkpoint: ()
