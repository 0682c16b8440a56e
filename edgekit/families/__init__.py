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
    """The family whose architecture a config.json names, or, where it names none, whose type of model.

    Raises:
        CheckpointError: no family has it, or the two contradict each other.
    """
    architectures, model_type = config.get("architectures"), config.get("model_type")
    known = ", ".join(family.architecture for family in FAMILIES.values())
    stated = f"architecture {architectures!r:.200}"
    if architectures in (None, []):
        stated = f"no architecture is stated, and model_type {model_type!r:.80}"
        fitting = [family for family in FAMILIES.values() if family.model_type == model_type]
    else:
        named = architectures if isinstance(architectures, list) else []
        fitting = [f for f in FAMILIES.values() if any(name in named for name in (f.architecture, *f.bases))]
        unfit = [(name, todo) for f in FAMILIES.values() for name, todo in f.unfit.items() if name in named]
        if unfit:
            name, todo = unfit[0]
            raise CheckpointError(f"config.json: architecture {name}: {todo}", allowed=known)
    if not fitting:
        raise CheckpointError(f"config.json: {stated} is unknown", allowed=known)
    if model_type not in (None, fitting[0].model_type):
        raise CheckpointError(
            f"config.json: {stated}, but model_type {model_type!r:.80}, by which transformers' Auto classes go",
            allowed=f"model_type {fitting[0].model_type!r}",
        )
    return fitting[0]
