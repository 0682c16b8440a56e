"""The model: an artifact folder of the chosen levels, which opens like any other."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.files import create
from edgekit.artifacts.manifest import ANEW
from edgekit.errors import ArtifactError
from edgekit.export import readme
from edgekit.pack.contents.base import Content, Gathering
from edgekit.progress import Progress

_BLOCK_BYTES = 1 << 20


def write(gathering: Gathering) -> None:
    """Copy its files, compare what was copied with the manifest, write a manifest of these levels.

    They are copies and no links: what is done to the artifact later must not change a bundle that was signed.

    Raises:
        ArtifactError: a file is missing, or not the one that the manifest describes.
    """
    entries = {entry.path: entry for entry in gathering.manifest.files}.values()
    gathering.progress.start("copying the model", sum(entry.bytes for entry in entries))
    for entry in entries:
        source, target = gathering.artifact / entry.path, gathering.model / entry.path
        if not source.is_file():
            raise ArtifactError(f"{source}: missing, though the manifest lists it", remedy=ANEW)
        target.parent.mkdir(parents=True, exist_ok=True)
        if _copy(source, target, gathering.progress) != entry.sha256:
            raise ArtifactError(
                f"{source}: is not the file that the manifest describes",
                remedy=f"it was damaged or changed after it was proven: {ANEW}",
            )
        target.chmod(0o644)
    readme.publish(gathering.model, gathering.manifest)


def _copy(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file; the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as given, create(target) as made:
        while True:
            with named(source):
                block = given.read(_BLOCK_BYTES)
            if not block:
                return digest.hexdigest()
            digest.update(block)
            made.write(block)
            progress.advance(len(block))


CONTENT = Content("copying the model", 10, write)
