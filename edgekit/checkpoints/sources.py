"""What a user may name as a checkpoint: a folder, a reference model, a model of the hub."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts import find
from edgekit.artifacts.recipes import recipe
from edgekit.checkpoints import hub, reference_models
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import UsageError


def source_folder(name: str, revision: str | None = None) -> Path:
    """A checkpoint folder, a reference model by name, or a model of the hub in the local cache.

    Raises:
        UsageError: it is none of them, or a revision of what has none.
        HubError: the cache does not have it.
    """
    if revision and (Path(name).is_dir() or not hub.is_id(name)):
        raise UsageError(f"--revision {revision} of {name}", allowed="a model of the hub, as owner/name")
    if Path(name).is_dir():
        return Path(name)
    if folder := reference_models.path(name):
        return folder
    if Path(name).is_file():
        raise UsageError(
            f"{name}: is a file, and no checkpoint folder",
            allowed="a folder with config.json, tokenizer and weights",
            remedy=f"name the folder that it lies in: {Path(name).absolute().parent}",
        )
    if hub.is_id(name):
        return hub.cached(name, revision)
    check_no_recipe(name)
    raise UsageError(
        f"{name}: no such checkpoint folder",
        allowed=f"a folder, a model of the hub as owner/name, or one of {', '.join(reference_models.NAMES)}",
    )


def check_no_recipe(name: str) -> None:
    """Raise UsageError for the name of a recipe, which says what to make of a checkpoint and is none."""
    if name not in find.names("exports"):
        return
    source = recipe(name).source
    if shipped := reference_models.named(source):
        what, remedy = f"the reference model {shipped}", f"name {shipped}"
    else:
        what, remedy = source, f"name a folder, or {source}, which edgekit export --download fetches"
    raise UsageError(f"{name}: is a recipe, and no checkpoint; it is for {what}", remedy=remedy)


def reference_model_of(source_sha256: str) -> Path | None:
    """The reference model whose files have this hash, or None: another checkpoint, or weights not installed."""
    folders = filter(None, map(reference_models.path, reference_models.NAMES))
    return next((folder for folder in folders if open_checkpoint(folder).sha256 == source_sha256), None)
