"""Give an artifact that was written beside its place its name, in one step that can be taken again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from edgekit.artifacts import files
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.folders import appear
from edgekit.artifacts.manifest import FileEntry, Manifest
from edgekit.errors import ArtifactError
from edgekit.export import readme


def place(staging: Path, folder: Path, manifest: Manifest) -> None:
    """Give the folder its name, or put what is new, and last the manifest, into the one that is there.

    Until the manifest is there, the staging folder keeps everything, so that a rerun after a kill has nothing to make.
    """
    readme.publish(staging, manifest)
    if not (folder / manifests.FILE_NAME).is_file():
        appear(staging, {manifests.FILE_NAME, readme.FILE_NAME, *(file.path for file in manifest.files)}, folder)
        return
    kept = {file.path for part in manifests.read(folder).parts for file in part.files}
    of_parts = {file.path for part in manifest.parts for file in part.files}
    with ExitStack() as undo:
        for entry in {file.path: file for file in manifest.files if file.path not in kept}.values():
            target = folder / entry.path
            if not target.parent.resolve().is_relative_to(folder):
                raise ArtifactError(f"{target.parent}: a link that leaves the artifact folder", remedy="remove it")
            if not target.exists():
                undo.callback(target.unlink, missing_ok=True)
            # Support files are made anew by every export, where they lie: they must not be one with published ones.
            if entry.path in of_parts or not _is_there(target, entry):
                files.put(staging / entry.path, target, link=entry.path in of_parts)
        try:
            files.rename(staging / manifests.FILE_NAME, folder / manifests.FILE_NAME)
        finally:
            if not (staging / manifests.FILE_NAME).exists():  # it is published, whatever came after
                undo.pop_all()
    files.put(staging / readme.FILE_NAME, folder / readme.FILE_NAME, link=False)


def _is_there(path: Path, entry: FileEntry) -> bool:
    same_size = path.is_file() and not path.is_symlink() and path.stat().st_size == entry.bytes
    return same_size and files.sha256_file(path) == entry.sha256
