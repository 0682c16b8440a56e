"""The model: an artifact folder of the chosen levels, which opens like any other."""

from __future__ import annotations

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import copy
from edgekit.errors import ArtifactError
from edgekit.export import readme
from edgekit.pack.contents.base import Content, Gathering


def write(gathering: Gathering) -> None:
    """Copy its files, hash what was copied, write its manifest.

    They are copies and no links: what is done to the artifact later must not change a bundle that was signed.

    Raises:
        ArtifactError: a file is missing, or not the one that the manifest describes.
    """
    entries = {entry.path: entry for entry in gathering.manifest.files}.values()
    gathering.progress.start("copying the model", sum(entry.bytes for entry in entries))
    for entry in entries:
        source, target = gathering.artifact / entry.path, gathering.model / entry.path
        if not source.is_file():
            raise ArtifactError(f"{source}: missing, though the manifest lists it", remedy=manifests.ANEW)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(source, target)
        target.chmod(0o644)
        gathering.progress.advance(entry.bytes)
    readme.publish(gathering.model, gathering.manifest)


CONTENT = Content("copying the model", 10, write)
