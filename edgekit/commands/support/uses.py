"""Which command uses a level of an artifact, by what its parts make: known from the manifest, before a file is read."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Manifest
from edgekit.errors import ArtifactError, InputError, UsageError
from edgekit.families.composition import Chat, Composition, Contrastive
from edgekit.runtime.compose import abilities_of
from edgekit.runtime.manifest_checks import composition_of


def command(folder: Path, manifest: Manifest, level: str) -> str | None:
    """The command line that asks a level, or has it score labels; None where it does neither, or makes no model."""
    try:
        made = _made(folder, manifest, level)
    except ArtifactError:
        return None
    if isinstance(made, Chat):
        words = ["ask", str(folder), "QUESTION", *(["--image", "FILE"] if made.vision else [])]
    elif isinstance(made, Contrastive):
        words = ["classify", str(folder), "IMAGE", "--label", "A", "--label", "B"]
    else:
        return None
    return shlex.join(["edgekit", *words, *([] if level == manifest.default else ["--level", level])])


def check_ability(folder: Path, level: str | None, ability: str, *, shown: bool) -> None:
    """Refuse what a model cannot do before images are read and libraries loaded, with the command that it is for.

    A folder that holds no artifact, or a wrong one, is left to whoever opens it: a bad image is said first.

    Args:
        ability: as in `Model.abilities`.
        shown: whether it is to see images.

    Raises:
        UsageError: the model lacks the ability, or there is no such level.
        InputError: it sees no images.
    """
    try:
        manifest = manifests.read(folder)
        level, _ = manifest.variant(level)
        made = _made(folder, manifest, level)
    except ArtifactError:
        return
    abilities = abilities_of(made)
    if ability not in abilities:
        remedy = command(folder, manifest, level) or "export the whole model, both encoders: it scores labels"
        raise UsageError(f"{manifest.title} cannot {ability}", allowed=", ".join(sorted(abilities)), remedy=remedy)
    if shown and isinstance(made, Chat) and not made.vision:
        raise InputError(f"{manifest.title} cannot see images", allowed="text alone", remedy="leave --image out")


def _made(folder: Path, manifest: Manifest, level: str) -> Composition:
    return composition_of(manifest, manifest.variant(level)[1], folder / manifests.FILE_NAME)[1]
