"""Make an artifact: plan, write into a staging folder, prove what was written, publish it in one step.

Publishing is one rename, or, where DIR already holds an artifact of the same source, links to the new files and then
the manifest, replaced atomically. Bad input and failed gates leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.differences import DifferencesError
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import unchanged
from edgekit.artifacts.folders import check_place, staging_of, updating
from edgekit.artifacts.manifest import FileEntry, Manifest, Parity, Part, Served
from edgekit.errors import ArtifactError, UsageError
from edgekit.export import readme, stage
from edgekit.export.job import Job, resolve
from edgekit.export.placing import place
from edgekit.families.source import Source, open_source
from edgekit.full_precision.original import check_reading
from edgekit.inputs.samples import Inputs, shipped_inputs
from edgekit.machine.memory import memory
from edgekit.machine.temporary import system_folder
from edgekit.progress import Progress
from edgekit.prove import (
    BEYOND,
    CONTEXT,
    FullPrecisionRuns,
    audit_parts,
    check_inputs,
    exactness,
    foreign,
    prove_end_to_end,
    prove_parts,
)
from edgekit.prove.beside import check_beside, installed_recipe
from edgekit.prove.scores import check_scores
from edgekit.runtime.base import Float
from edgekit.runtime.needs import Needs
from edgekit.runtime.opening import prepare
from edgekit.runtime.tuning_results import DEFAULT

_POSITIONS_AFTER_IMAGES = 64  # that a proof compares at most, beside the text's


@dataclass(frozen=True)
class Exported:
    """What one export published."""

    folder: Path
    manifest: Manifest
    added: tuple[Part, ...]


@dataclass(frozen=True)
class Proven:
    """An artifact, and those of its parts that were proven just now."""

    manifest: Manifest
    parts: tuple[Part, ...]


def export(
    source: Path,
    folder: Path,
    *,
    recipe_name: str | None = None,
    levels: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
    prove: bool = True,
    fresh: bool = False,
    inputs: Inputs | None = None,
    served: Served | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Convert a checkpoint into an artifact folder, proven unless told otherwise.

    Args:
        source: a checkpoint folder.
        folder: the artifact; created, or added to where it holds an artifact of the same source.
        levels: variants of the recipe; all that it does not keep for request for none.
        parts: role -> level, to be used in place of each variant's own choice.
        fresh: forget what an interrupted run left.
        inputs: what the proof compares on, and calibration measures; what comes with edgekit for None.
        served: what other programs are told to reserve for it; for None as it was, or their usual context.

    Raises:
        CheckpointError, UsageError: the source or a name is wrong, or a part that is there was calibrated on others
            than these inputs.
        ArtifactError: the folder holds something else.
        GateError: a part differs from its original; nothing is published.
    """
    progress = progress or Progress()
    with file_errors(source):
        job = replace(resolve(source, recipe_name, levels, parts or {}), served=served)
    for note in job.notes:
        progress.note(note)
    if left_out := [name for name in job.recipe.variant if not levels and name in job.recipe.on_request]:
        progress.note(f"left out, for they are large: {', '.join(left_out)}; --level NAME exports them")
    if inputs and not prove and not any(plan.level.needs_calibration for plan in job.plans()):
        raise UsageError("nothing of these levels is measured on inputs", remedy="without --images and --text")
    compared = (inputs or shipped_inputs()) if prove else None
    check_place(folder)
    folder = folder.resolve()
    staging = staging_of(folder)
    runs = FullPrecisionRuns(job.source, progress, scratch=staging)
    if compared:
        _check_before(runs, compared)
    try:
        with stage.staged(staging, job, fresh):
            existing = _existing(folder, job)
            stage.copy_existing(folder, existing, staging)
            plans = {p.key: p for p in job.plans()}
            made = stage.find_parts(job.source, existing, list(plans.values()), inputs)
            new = [plan for key, plan in plans.items() if key not in made]
            asked = {(plan.role, plan.level.format) for plan in new if compared}
            written = stage.write_parts(job, new, inputs, staging, progress, _exactness_bytes(job.source, asked))
            made |= written
            support = stage.copy_support(job, staging)
            job.source.checkpoint.check_unchanged()
            manifest = stage.with_modelfiles(stage.manifest_of(job, existing, made, support, staging), staging)
            manifests.write(staging, manifest)
            if compared:
                check_beside(manifest, job.source, job.recipe, new=True)
                # Not those of parts that were there: an interrupted run may have left others in their place.
                hashed = (*support, *(file for part in written.values() for file in part.files))
                wanted = {part.id for part in made.values()}
                manifest = _prove(staging, manifest, runs, compared, wanted, hashed=hashed)
            with updating(folder):
                manifest = _latest(folder, job, existing, manifest, support, staging)
                place(staging, folder, manifest)
    finally:
        progress.finish()
    fresh_ids = {part.id for part in made.values()} - {part.id for part in (existing.parts if existing else ())}
    return Exported(folder, manifest, tuple(part for part in manifest.parts if part.id in fresh_ids))


def prove(
    folder: Path,
    source: Path,
    *,
    levels: Sequence[str] = (),
    inputs: Inputs | None = None,
    progress: Progress | None = None,
) -> Proven:
    """Prove an artifact that exists, and record the result in its manifest.

    Raises:
        UsageError: `source` is not what the artifact was made from, or a level is unknown here.
        CheckpointError: `source` lacks files that those of others must be compared with.
        EdgekitError: a library, a file or room on a disk is missing; the message lists all that is.
        GateError: a part differs from its original; the manifest is left as it was. Of files that others made, it is a
            DifferencesError, which has all that differs, and unless they were proven the manifest says so.
    """
    progress = progress or Progress()
    manifest = manifests.read(folder)
    readme.check(folder)
    if readme.contradicts(folder, manifest):
        progress.note(f"{folder / readme.FILE_NAME} says something else than the manifest: a proof writes it anew")
    original = open_source(source)
    if not manifest.foreign and original.checkpoint.sha256 != manifest.source.sha256:
        raise UsageError(
            f"{source}: is not the checkpoint that {folder} was made from",
            allowed=f"one with the hash {manifest.source.sha256[:16]}...",
        )
    variants = {name: manifest.variant(name)[1] for name in (levels or manifest.variants)}
    wanted = {part.id: part for parts in variants.values() for part in parts.values()}
    if manifest.foreign:
        wanted = {part.id: part for part in foreign.comparable(folder, original, list(wanted.values()), progress)}
        manifest = foreign.against(manifest, original)
    else:
        manifests.verify(folder, manifest.support_files)
        check_beside(manifest, original, installed_recipe(manifest, original), new=False)
    inputs = inputs or shipped_inputs()
    runs = FullPrecisionRuns(original, progress, scratch=folder)
    _check_before(runs, inputs)
    _check_needs(folder, manifest, list(variants), list(wanted.values()), original)
    unproven = manifest.model_copy(
        update={
            "parts": tuple(
                part.model_copy(update={"parity": None}) if part.id in wanted else part for part in manifest.parts
            )
        }
    )
    compared = [file.path for part in wanted.values() for file in part.files]
    compared += [manifest.tokenizer.path] if manifest.tokenizer else []
    with file_errors(folder):
        try:
            with unchanged(folder / name for name in compared):
                proven = _prove(folder, unproven, runs, inputs, wanted, tuple(levels))
            original.checkpoint.check_unchanged()  # or another than the one that is named was compared with
        except DifferencesError as error:
            if not manifest.foreign:
                raise
            with updating(folder):
                readme.publish(folder, foreign.refused(manifests.read(folder), original, error))
            raise foreign.differing(folder, original, error) from error
        finally:
            progress.finish()
        parity = {part.id: part.parity for part in proven.parts if part.id in wanted and part.parity}
        with updating(folder):  # an export may have added levels meanwhile
            current = manifests.read(folder)
            current = _with_parity(foreign.against(current, original) if parity else current, parity)
            readme.publish(folder, current)
        return Proven(current, tuple(part for part in current.parts if part.id in parity))


def _check_before(runs: FullPrecisionRuns, inputs: Inputs) -> None:
    """What needs no file of the artifact. Raises InputError or CheckpointError."""
    check_inputs(runs.source, inputs)
    check_reading(runs.source, runs.original)


def _exactness_bytes(source: Source, parts: Collection[tuple[str, str]]) -> int:
    """What exactness takes at most on the disk, of parts by role and format, one after the other."""
    return max((exactness.disk_bytes(source, *part) for part in parts), default=0)


def _check_needs(
    folder: Path, manifest: Manifest, levels: Sequence[str], parts: Sequence[Part], source: Source
) -> None:
    """Raise EdgekitError for all that proving these levels lacks. Memory does not count: what is named is tried."""
    needs = Needs()
    needs.full_precision(doing="a proof")
    for name in levels:
        needs.level(folder, name, weighed=False)
    written = {(part.role, part.format) for part in parts if not manifest.foreign}
    needs.place(folder, _exactness_bytes(source, written))
    decoders = sum(part.output == "logits" for part in parts)
    # Logits lie in temporary files: the original's, and those of each level's own weights and of its file.
    rows = 0 if not decoders else (BEYOND + _POSITIONS_AFTER_IMAGES) * (1 + 2 * decoders)
    needs.place(system_folder(), 4 * rows * int(source.settings.get("vocabulary", 0)))
    needs.check()


def _existing(folder: Path, job: Job, known: Manifest | None = None) -> Manifest | None:
    """The artifact that is already there, if it is one that this job may add to.

    Args:
        known: what was there before, whose files need not be hashed again.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file", allowed="a folder, or a name that is free")
    if not any(folder.iterdir()):
        return None
    if not (folder / manifests.FILE_NAME).is_file():
        raise ArtifactError(
            f"{folder}: is not empty and holds no artifact", allowed="an empty folder, or a name that is free"
        )
    manifest = manifests.read(folder)
    readme.check(folder)
    if manifest.source.sha256 != job.source.checkpoint.sha256 or manifest.recipe != job.recipe.name:
        raise ArtifactError(
            f"{folder}: holds {manifest.recipe} from the source {manifest.source.sha256[:16]}..., not this one",
            remedy="export to another folder",
        )
    try:  # support files are written anew
        hashed = known.files if known else ()
        manifests.verify(folder, tuple(file for part in manifest.parts for file in part.files), hashed)
    except ArtifactError as error:
        raise ArtifactError(error.message, remedy=f"remove {folder} and export all its levels again") from error
    return manifest


def _prove(
    folder: Path,
    manifest: Manifest,
    runs: FullPrecisionRuns,
    inputs: Inputs,
    wanted: Collection[str],
    variants: Sequence[str] = (),
    hashed: Collection[FileEntry] = (),
) -> Manifest:
    """Prove every part that has no parity yet, opened as part of a variant that contains it, and each pair of parts.

    Args:
        wanted: ids of the parts that are to be proven.
        variants: those that are opened whatever they take; without any, all that memory has room for.
        hashed: files in this folder whose hash was just computed.
    """
    proven = {part.id: part for part in manifest.parts}
    seen: dict[str, Float] = {}
    for name in variants or manifest.variants:
        parts = [proven[part.id] for part in manifest.variant(name)[1].values() if part.id in wanted]
        here = [part for part in parts if part.parity is None]
        if not here and manifests.unproven_pair(parts) is None:
            continue
        opening = prepare(folder, name, context=CONTEXT, runtime=DEFAULT, hashed=hashed, progress=runs.progress)
        if not variants and _too_large(manifest, name, runs.progress):
            audit_parts(here, opening, runs)
            continue
        for part, parity in zip(here, prove_parts(here, opening, runs, inputs, manifest.gates), strict=True):
            proven[part.id] = part.model_copy(update={"parity": parity})
        check_scores(opening, runs, inputs)
        if pair := manifests.unproven_pair([proven[part.id] for part in parts]):
            figures = prove_end_to_end(opening, runs, inputs, manifest.gates, seen)
            proven[pair[0].id] = _paired(proven[pair[0].id], pair[1], figures)
    return manifest.model_copy(update={"parts": tuple(proven.values())})


def _paired(decoder: Part, eye: Part, figures: Mapping[str, float]) -> Part:
    """A proven decoder with what it gave behind this vision part."""
    assert decoder.parity is not None, "pairs are proven last"
    together = {**decoder.parity.end_to_end, eye.id: figures}
    return decoder.model_copy(update={"parity": decoder.parity.model_copy(update={"end_to_end": together})})


def _too_large(manifest: Manifest, variant: str, progress: Progress) -> bool:
    """Whether a variant cannot be opened in the memory that is free, which is then said."""
    need = sum(int(part.requires.get("memory_bytes", 0)) for part in manifest.variant(variant)[1].values())
    free = memory().available_bytes
    if not 0 < free < need:  # 0: the system does not say
        return False
    reference = " --reference SOURCE" if manifest.foreign else ""
    progress.note(
        f"{variant} is not proven: it takes {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free, so its files "
        f"are compared but not opened; where there is more, run: edgekit prove DIR --level {variant}{reference}"
    )
    return True


def _latest(
    folder: Path, job: Job, existing: Manifest | None, manifest: Manifest, support: tuple[FileEntry, ...], staging: Path
) -> Manifest:
    """The manifest to publish: this export's parts, and what others changed since it began to compute."""
    current = _existing(folder, job, existing)
    if current == existing:
        return manifest
    keys = {plan.key for plan in job.plans()}
    made = {(part.role, part.level): part for part in manifest.parts if (part.role, part.level) in keys}
    merged = stage.with_modelfiles(stage.manifest_of(job, current, made, support, staging), staging)
    others = current.parts if current else ()
    return _with_parity(merged, {part.id: part.parity for part in (*others, *manifest.parts) if part.parity})


def _with_parity(manifest: Manifest, parity: Mapping[str, Parity]) -> Manifest:
    """The manifest with these parts' parity, by their ids."""
    parts = tuple(part.model_copy(update={"parity": parity.get(part.id, part.parity)}) for part in manifest.parts)
    return manifest.model_copy(update={"parts": parts})
