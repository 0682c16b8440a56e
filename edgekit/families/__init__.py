"""The model families that edgekit converts: one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.families.base import Family, Role, Slot
from edgekit.families.gemma3 import family as medgemma
from edgekit.families.siglip import family as medsiglip

__all__ = ["FAMILIES", "Family", "Role", "Slot", "family_of"]

FAMILIES: Mapping[str, Family] = {f.name: f for f in (medgemma.FAMILY, medgemma.TEXT_ONLY, medsiglip.FAMILY)}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family whose architecture a config.json names.

    Raises:
        CheckpointError: no family has it.
    """
    architectures = config.get("architectures")
    for family in FAMILIES.values():
        if isinstance(architectures, list) and family.architecture in architectures:
            return family
    raise CheckpointError(
        f"config.json: architecture {architectures!r} is unknown",
        allowed=", ".join(family.architecture for family in FAMILIES.values()),
    )
