"""What a bundle or a repository of the hub is made from, looked up and checked before anything is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgekit import bench
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Manifest
from edgekit.bench.records import Record
from edgekit.errors import NoSpaceError, UsageError
from edgekit.export.remove import only
from edgekit.pack.contents.base import About, Gathering, Target
from edgekit.pack.contents.papers import agreement_text
from edgekit.progress import Progress

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", re.ASCII)
_SPARE_BYTES = 64_000_000  # of what comes beside the model


def gather(
    artifact: Path, levels: Sequence[str], about: About, staging: Path, target: Target | None, progress: Progress
) -> Gathering:
    """Everything that contents are written from.

    Args:
        levels: of the artifact, the one that is installed or opened by default first; its default alone for none.
        staging: where it will be put together; nothing is there yet.

    Raises:
        UsageError: there is no such level, a text that the licence wants is missing, or the results are of another
            model.
        ArtifactError: the folder is no artifact.
        NoSpaceError: the disk has less room than the model takes.
    """
    manifest = manifests.read(artifact)
    names = [manifest.variant(name)[0] for name in levels or [manifest.default]]
    chosen = only(manifest, names, names[0])
    agreement = agreement_text(manifest, about.terms)
    base_model = _base_model(about.base_model, manifest)
    if base_model is None and not manifest.stand_in:
        progress.note("the card names no base model, for nothing here says which it was: --base-model OWNER/NAME")
    _check_space(staging.parent, chosen)
    return Gathering(
        staging=staging,
        artifact=artifact,
        manifest=chosen,
        records=_records(about.records, manifest),
        agreement=agreement,
        base_model=base_model,
        target=target,
        progress=progress,
    )


def _records(path: Path | None, manifest: Manifest) -> tuple[Record, ...]:
    """The rows of this very model."""
    if path is None:
        return ()
    results = bench.read(path)
    own = tuple(record for record in results.records if record.source_sha256 == manifest.source.sha256)
    if not own:
        raise UsageError(
            f"{path}: holds results of {', '.join(dict.fromkeys(record.model for record in results.records))}",
            allowed=f"results of what {manifest.title} was made from, SHA-256 {manifest.source.sha256[:16]}...",
        )
    return own


def _base_model(given: str | None, manifest: Manifest) -> str | None:
    """`owner/name`: what the user says, else what the checkpoint was; nobody knows what a mere folder held."""
    if given is not None:
        if not _HUB_ID.fullmatch(given):
            raise UsageError(f"--base-model {given}", allowed="a model of the hub, as owner/name")
        return given
    name = (manifest.source.revision or "").partition("@")[0]
    return name if _HUB_ID.fullmatch(name) and not manifest.stand_in else None


def _check_space(place: Path, manifest: Manifest) -> None:
    there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    need = sum({entry.path: entry.bytes for entry in manifest.files}.values()) + _SPARE_BYTES
    if need > (free := shutil.disk_usage(there).free):
        raise NoSpaceError(
            f"{place}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            remedy="make room, or choose another disk with --to",
        )
