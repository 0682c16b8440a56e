"""Take levels out of an artifact, and the files that no other level needs.

The manifest stops naming them before any file goes, so whoever opens the folder meanwhile finds a whole artifact. What
is to go is noted first: after a kill, the next removal in this folder does the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.folders import locked
from edgekit.artifacts.manifest import FileEntry, Manifest, Part
from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError, UsageError
from edgekit.export import llama_programs, readme

_NOTE = ".edgekit-remove.json"
_MAX_NOTE_BYTES = 1 << 20


class _Note(BaseModel):
    """What a removal is about to do.

    Attributes:
        levels: that go.
        files: that go; only those that the manifest no longer lists, and whose content is still this.
    """

    levels: tuple[str, ...]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Removed:
    """What a removal did, or would do.

    Attributes:
        manifest: what is left.
        parts: those that no level needs any more.
        files: that are gone, relative to the folder.
        freed_bytes: what they took on the disk; nothing for a file that has another name elsewhere.
    """

    folder: Path
    manifest: Manifest
    levels: tuple[str, ...]
    parts: tuple[Part, ...]
    files: tuple[str, ...]
    freed_bytes: int


def remove(folder: Path, levels: Sequence[str], *, default: str | None = None, dry_run: bool = False) -> Removed:
    """Remove levels from an artifact.

    Args:
        default: the level that is opened when none is named, from now on; must be given where the present one goes.
        dry_run: only say what would go.

    Raises:
        ArtifactError: the folder is no artifact, another command is at work there, a README.md is not edgekit's, or the
            file system refused something.
        UsageError: there is no such level, none would be left, or the default one goes and no other is named.
    """
    manifests.read(folder)  # before a lock makes the folder
    folder = folder.resolve()
    readme.check(folder)
    if dry_run:
        with file_errors(folder):
            left = _note(folder)
            return _done(folder, left, *_without(folder, levels, default, left))
    with file_errors(folder), locked(folder):
        left = _note(folder)
        slim, files, parts = _without(folder, levels, default, left)
        done = _done(folder, left, slim, files, parts)
        note = _Note(levels=(*left.levels, *levels), files=(*left.files, *files))
        write_atomically(folder / _NOTE, note.model_dump_json())
        readme.publish(folder, slim)
        _delete(folder, done.files)
        (folder / _NOTE).unlink()
        return done


def _without(
    folder: Path, levels: Sequence[str], default: str | None, left: _Note
) -> tuple[Manifest, tuple[FileEntry, ...], tuple[Part, ...]]:
    """The manifest without these levels, the files that it lists no longer, and the parts."""
    manifest = manifests.read(folder)
    kept = {name: parts for name, parts in manifest.variants.items() if name not in levels}
    if unknown := [name for name in levels if name not in manifest.variants and name not in left.levels]:
        raise UsageError(f"{folder}: has no level {unknown[0]!r}", allowed=", ".join(manifest.variants))
    if not kept:
        raise UsageError(f"{folder}: no level would be left", remedy=f"remove the folder: rm -r {folder}")
    if default is not None and default not in kept:
        raise UsageError(f"{folder}: --default {default!r} is no level that is left", allowed=", ".join(kept))
    if default is None and manifest.default not in kept:
        raise UsageError(
            f"{folder}: {manifest.default} is the default level", remedy=f"--default {' or '.join(kept)}, from now on"
        )
    slim = only(manifest, kept, default or manifest.default)
    listed = {entry.path for entry in slim.files}
    files = tuple(entry for entry in manifest.files if entry.path not in listed)
    return slim, files, tuple(part for part in manifest.parts if part not in slim.parts)


def only(manifest: Manifest, levels: Collection[str], default: str) -> Manifest:
    """The manifest of some of its levels: their parts, and the support files without those of other levels.

    Args:
        default: one of these levels, which is opened when none is named.
    """
    kept = {name: parts for name, parts in manifest.variants.items() if name in levels}
    needed = {part_id for parts in kept.values() for part_id in parts.values()}
    others = [llama_programs.file_name(name) for name in manifest.variants if name not in kept]
    return manifest.model_copy(
        update={
            "variants": kept,
            "default": default,
            "parts": tuple(part for part in manifest.parts if part.id in needed),
            "support_files": tuple(entry for entry in manifest.support_files if entry.path not in others),
        }
    )


def _note(folder: Path) -> _Note:
    """What an interrupted removal left to do; nothing without one."""
    path = folder / _NOTE
    if not path.is_file():
        return _Note(levels=(), files=())
    if path.stat().st_size > _MAX_NOTE_BYTES:
        raise ArtifactError(f"{path}: larger than such a note can be", remedy="remove this file")
    return validated(_Note, path.read_bytes(), str(path), ArtifactError, remedy="remove this file")


def _done(folder: Path, left: _Note, slim: Manifest, files: Iterable[FileEntry], parts: tuple[Part, ...]) -> Removed:
    listed = {manifests.FILE_NAME, *(entry.path for entry in slim.files)}
    there = [*files, *(entry for entry in left.files if _is_as_noted(folder, entry))]
    going = {entry.path: folder / entry.path for entry in there if entry.path not in listed}
    going = {name: path for name, path in going.items() if path.is_file()}
    freed = sum(path.stat().st_size for path in going.values() if path.stat().st_nlink == 1)
    manifest = manifests.read(folder)
    levels = tuple(name for name in manifest.variants if name not in slim.variants)
    return Removed(folder, slim, levels or left.levels, parts, tuple(going), freed)


def _is_as_noted(folder: Path, entry: FileEntry) -> bool:
    """Whether it is the file that a manifest once listed: a note is a file like any other, and may say anything."""
    try:
        manifests.verify(folder, (entry,))
    except ArtifactError:
        return False
    return True


def _delete(folder: Path, names: Iterable[str]) -> None:
    """Delete files, and the folders that this leaves empty."""
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        for parent in path.relative_to(folder).parents[:-1]:
            with suppress(OSError):
                (folder / parent).rmdir()
