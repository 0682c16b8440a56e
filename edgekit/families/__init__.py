"""The model families that edgekit converts: one folder for each architecture, which is found by being there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.artifacts.discovery import values
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.families.base import Family, Role

__all__ = ["FAMILIES", "Family", "Role", "family_named", "family_of"]

FAMILIES: Mapping[str, Family] = {
    family.name: family for families in values(__name__, "FAMILIES", folders=True) for family in families
}


def family_named(name: str, where: str, error: type[EdgekitError]) -> Family:
    """The family of a name that a manifest or a recipe states.

    Args:
        where: what the message begins with.

    Raises:
        error: there is none.
    """
    if name not in FAMILIES:
        raise error(f"{where}: unknown family {name!r:.60}", allowed=", ".join(FAMILIES))
    return FAMILIES[name]


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
