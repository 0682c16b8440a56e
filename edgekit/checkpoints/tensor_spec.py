"""What a family says of one tensor of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.artifacts.levels import LayerPosition


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint and what may become of it, in whichever format.

    Attributes:
        name: its name in the hub's key layout.
        shape: what config.json says it must be.
        kind: what a level's mixture may single out: `matrix`, `token_embedding`, `norm`, ...
        keep: the precision it has at every level, None where the level decides; a format without F16 keeps F32.
        add_one: Gemma's norms compute with (1 + w); files store the sum.
        position: the layer it belongs to, for mixtures that treat layers differently; None outside the layers.
        padded: the axis that may be filled with zeros up to whole blocks without changing any result.
        follows: what makes the channels that enter this matrix, and nothing else reads them but matrices that say the
            same: a norm's, or a matrix's, weight and bias. Dividing these by a factor for each channel, and multiplying
            this matrix's columns by it, changes nothing.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    keep: Literal["F32", "F16"] | None = None
    add_one: bool = False
    position: LayerPosition | None = None
    padded: int | None = None
    follows: tuple[str, ...] = ()
