"""Files that others made, and the checkpoint that they are said to come from: what can be compared, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts.differences import Difference, DifferencesError, counted, shown
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Manifest, Part, SourceRecord
from edgekit.errors import ArtifactError, CheckpointError, UsageError
from edgekit.families.source import Source
from edgekit.progress import Progress
from edgekit.prove.audit import Audit
from edgekit.prove.beside import fitting_recipe, stand_in_labels
from edgekit.terminal import stripped_line

_IN_FILES = {"tensor", "constant", "template", "tokenizer"}  # what the audit sees, before anything is opened
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def comparable(folder: Path, source: Source, parts: Sequence[Part], progress: Progress) -> list[Part]:
    """Those of an artifact's parts that the checkpoint has, too, and that can be its own; what is left out is said.

    Raises:
        UsageError: it has none of them.
        CheckpointError: it lacks the files that prompts and pictures are compared with, or its tensors are not whole.
        DifferencesError: a part has other tensors than the checkpoint: it is another model's, or not whole.
    """
    root, roles = source.checkpoint.root, source.family.roles
    shared = [part for part in parts if part.role in roles and roles[part.role].output == part.output]
    if not shared:
        raise UsageError(
            f"{root}: has {' and '.join(roles)}, {folder} {' and '.join(part.role for part in parts)}",
            allowed="the checkpoint that the files were made from",
        )
    source.check_tensors()
    if missing := list(_missing(source, shared)):
        raise CheckpointError(
            f"{root}: lacks files without which a proof would leave things out",
            items=missing,
            remedy="download the checkpoint's tokenizer and processor files, too",
        )
    if differences := list(_other_tensors(folder, source, shared)):
        raise DifferencesError(
            f"{folder}: its tensors are not those of {root}: that is another model, or the files are not whole",
            differences,
            remedy="--reference SOURCE with the checkpoint that they were made from",
        )
    for part in (part for part in parts if part not in shared):
        progress.note(f"{part.role} {part.level} is not compared: {root} has no such part")
    for role in roles.keys() - {part.role for part in shared}:
        progress.note(f"{role} of {root} is left out: {folder} has no such part")
    return shared


def tell(found: Audit, where: str, progress: Progress) -> None:
    """What nobody needs to mend."""
    if found.notes:
        listed = ", ".join(f"{one.name} {stripped_line(shown(one.found), 60)!r}" for one in found.notes[:10])
        more = f" and {len(found.notes) - 10} more" if len(found.notes) > 10 else ""
        progress.note(f"{where}: does not change the model: {listed}{more}")


def differing(folder: Path, source: Source, error: DifferencesError) -> DifferencesError:
    """What a proof refused, as all that differs between files and a checkpoint."""
    differences = error.differences
    kinds = {one.kind for one in differences if not one.is_note}
    said = "" if "tensor" in kinds else "; its tensors are the same"
    said += "; what it computes was not compared" if kinds <= _IN_FILES else ""
    return DifferencesError(
        f"{folder} differs from {source.checkpoint.root}: {counted(differences)}{said}",
        differences,
        remedy=f"files that are the same: edgekit export {source.checkpoint.root} --to DIR",
    )


def refused(manifest: Manifest, source: Source, error: DifferencesError) -> Manifest:
    """The manifest with what a proof refused; one that a proof with another checkpoint found good stays good."""
    if manifest.foreign and manifest.provenance and not any(part.parity for part in manifest.parts):
        named = f"{_name(source)}, SHA-256 {source.checkpoint.sha256[:16]}...: {counted(error.differences)}"
        return manifest.model_copy(update={"differs_from": named})
    return manifest


def _name(source: Source) -> str:
    checkpoint = source.checkpoint
    return checkpoint.revision or stripped_line(checkpoint.root.resolve().name)[:100] or "a checkpoint"


def against(manifest: Manifest, source: Source) -> Manifest:
    """The manifest of files that others made, with the checkpoint that they were compared with.

    It is named by its hash, never by its place. What was compared with another one before counts no more. Files that
    are a stand-in's are one, whatever they call themselves, and its recipe says what they must show.
    """
    if not manifest.foreign:
        return manifest
    checkpoint, recipe = source.checkpoint, fitting_recipe(source)
    found = SourceRecord(
        name=_name(source), sha256=checkpoint.sha256, files=checkpoint.files, revision=checkpoint.revision
    )
    known = manifest.proven_against is not None and manifest.proven_against.sha256 == found.sha256
    unproven = tuple(part.model_copy(update={"parity": None}) for part in manifest.parts)
    of_source: dict[str, Any] = {
        "parts": manifest.parts if known else unproven,
        "proven_against": found,
        "differs_from": None,
        "gates": recipe.gates if recipe else Gates(),
        "stand_in": next(iter(stand_in_labels(source)), None),
    }
    return manifest.model_copy(update=of_source)


def _missing(source: Source, parts: Sequence[Part]) -> Iterator[str]:
    """The files that the checkpoint lacks, with what could not be compared without them."""
    if source.checkpoint.path("tokenizer.json") is None:
        yield "tokenizer.json: token ids, texts and prompts could not be compared"
    sees = any(source.family.roles[part.role].input == "pixels" for part in parts)
    if sees and not any(source.checkpoint.path(name) for name in _PROCESSOR):
        yield f"{' or '.join(_PROCESSOR)}: pixels could not be compared: size, resampling, mean and deviation"


def _other_tensors(folder: Path, source: Source, parts: Sequence[Part]) -> Iterator[Difference]:
    """What the parts' headers say of tensors that the checkpoint's configuration does not."""
    for part in parts:
        try:
            source.tensors_in(part.role, part.format, [folder / file.path for file in part.files])
        except ArtifactError as error:
            yield Difference("tensor", f"{part.role} {part.level}", "", error.message, error.allowed or "")
