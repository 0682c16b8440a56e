"""Files that others made, and the checkpoint that they are said to come from: what can be compared, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.artifacts.differences import Difference, DifferencesError, counted, shown
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Manifest, Part, SourceRecord
from edgekit.artifacts.recipes import choose
from edgekit.errors import ArtifactError, CheckpointError, UsageError
from edgekit.families.source import Source
from edgekit.progress import Progress
from edgekit.prove.audit import Audit
from edgekit.terminal import stripped_line

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
    return DifferencesError(
        f"{folder} differs from {source.checkpoint.root}: {counted(differences)}",
        differences,
        remedy=f"files that do not: edgekit export {source.checkpoint.root} --to DIR",
    )


def gates_of(source: Source) -> Gates:
    """What the checkpoint's recipe demands of it, where one recipe alone is known to be its own."""
    try:
        return choose(source.checkpoint.config, None, source.family.name).gates
    except UsageError:
        return Gates()


def against(manifest: Manifest, source: Source) -> Manifest:
    """The manifest of files that others made, with the checkpoint that they were compared with.

    It is named by its hash, never by its place. What was compared with another one before counts no more.
    """
    if not manifest.foreign:
        return manifest
    checkpoint = source.checkpoint
    name = checkpoint.revision or stripped_line(checkpoint.root.resolve().name) or "a checkpoint"
    found = SourceRecord(name=name, sha256=checkpoint.sha256, files=checkpoint.files, revision=checkpoint.revision)
    known = manifest.proven_against is not None and manifest.proven_against.sha256 == found.sha256
    parts = manifest.parts if known else tuple(part.model_copy(update={"parity": None}) for part in manifest.parts)
    return manifest.model_copy(update={"parts": parts, "proven_against": found, "gates": gates_of(source)})


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
