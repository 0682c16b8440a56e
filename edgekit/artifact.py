"""Make an artifact: plan, write into a staging folder, prove what was written, publish it in one step.

DIR never holds an unfinished file. Everything is written to `.DIR.partial` beside it; an interrupted run leaves that
folder, and a rerun takes over what it finished. Bad input and failed gates remove it. Publishing is one rename, or,
where DIR already holds an artifact of the same source, the new files and then the manifest, replaced atomically.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit import manifest as manifests
from edgekit.checkpoint import Checkpoint, open_checkpoint
from edgekit.errors import ArtifactError, EdgekitError, UsageError
from edgekit.export import writers
from edgekit.export.plan import PartPlan, plan
from edgekit.families import FAMILIES, Family, family_of
from edgekit.families.base import check_tensors
from edgekit.inputs.prompt import load_tokenizer
from edgekit.levels import level as level_of
from edgekit.manifest import FileEntry, Manifest, Part
from edgekit.prove import CONTEXT, Inputs, References, prove_part, shipped_inputs
from edgekit.recipes import Recipe, choose, recipe
from edgekit.runtime.open import open_model

_TOOLS = ("gguf", "llama_cpp_python", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "tokenizers", "torch", "transformers")


class Progress:
    """What long work reports to; this one ignores it."""

    def start(self, label: str, total: int) -> None:
        """A phase of `total` units begins."""

    def advance(self, units: int = 1) -> None:
        """Units of the current phase are done."""


@dataclass(frozen=True)
class Exported:
    """What one export published."""

    folder: Path
    manifest: Manifest
    added: tuple[Part, ...]


@dataclass(frozen=True)
class _Job:
    """One export, resolved: nothing has been written yet."""

    checkpoint: Checkpoint
    family: Family
    config: Any
    recipe: Recipe
    variants: Mapping[str, Mapping[str, str]]  # name -> {role: level}

    def plans(self) -> Iterator[PartPlan]:
        """Each part that the variants need, once."""
        seen = set()
        for parts in self.variants.values():
            for role, level_name in parts.items():
                if (role, level_name) not in seen:
                    seen.add((role, level_name))
                    yield plan(self.family, role, self.config, self.checkpoint, level_of(level_name))


def export(
    source: Path, folder: Path, *, recipe_name: str | None = None, levels: Sequence[str] = (),
    parts: Mapping[str, str] | None = None, prove: bool = True, fresh: bool = False, progress: Progress | None = None,
) -> Exported:  # fmt: skip
    """Convert a checkpoint into an artifact folder, proven unless told otherwise.

    Args:
        source: a checkpoint folder.
        folder: the artifact; created, or added to where it holds an artifact of the same source.
        levels: variants of the recipe; all for none.
        parts: role -> level, to be used in place of each variant's own choice.
        fresh: forget what an interrupted run left.

    Raises:
        CheckpointError, UsageError: the source or a name is wrong.
        ArtifactError: the folder holds something else.
        GateError: a part differs from its original; nothing is published.
    """
    progress = progress or Progress()
    job = _resolve(source, recipe_name, levels, parts or {})
    folder = folder.resolve()
    existing = _existing(folder, job)
    staging = folder.parent / f".{folder.name}.partial"
    with _staged(staging, job, fresh):
        _copy_existing(folder, existing, staging)
        support = _copy_support(job, staging)
        made: dict[tuple[str, str], Part] = {}
        plans = {(p.role, p.level.name): p for p in job.plans()}
        for key, part_plan in plans.items():
            made[key] = _find_part(existing, key) or _write_part(job, part_plan, staging, progress)
        manifest = _manifest(job, existing, made, support, staging)
        manifests.write(staging, manifest)
        if prove:
            manifest = _prove(staging, manifest, plans, job.recipe, progress)
        _publish(staging, folder, existing, manifest)
    fresh_ids = {part.id for part in made.values()} - {part.id for part in (existing.parts if existing else ())}
    return Exported(folder, manifest, tuple(part for part in manifest.parts if part.id in fresh_ids))


def prove(folder: Path, source: Path, *, levels: Sequence[str] = (), progress: Progress | None = None) -> Manifest:
    """Prove an artifact that exists, and record the result in its manifest.

    Raises:
        UsageError: `source` is not what the artifact was made from, or a level is unknown here.
        GateError: a part differs from its original; the manifest is left as it was.
    """
    manifest = manifests.read(folder)
    checkpoint = open_checkpoint(source)
    if checkpoint.sha256 != manifest.source.sha256:
        raise UsageError(f"{source}: is not the checkpoint that {folder} was made from", allowed=f"one with the hash {manifest.source.sha256[:16]}...")
    family = FAMILIES[manifest.family]
    config = family.parse(checkpoint.config)
    variants = {name: manifest.variant(name)[1] for name in (levels or manifest.variants)}
    wanted = {part.id: part for parts in variants.values() for part in parts.values()}
    plans = {(p.role, p.level): plan(family, p.role, config, checkpoint, level_of(p.level)) for p in wanted.values()}
    unproven = manifest.model_copy(update={"parts": tuple(
        part.model_copy(update={"parity": None}) if part.id in wanted else part for part in manifest.parts)})  # fmt: skip
    proven = _prove(folder, unproven, plans, recipe(manifest.recipe), progress or Progress(), tuple(variants))
    manifests.write(folder, proven)
    return proven


# ---------------------------------------------------------------- what to do


def _resolve(source: Path, recipe_name: str | None, levels: Sequence[str], parts: Mapping[str, str]) -> _Job:
    checkpoint = open_checkpoint(source)
    family = family_of(checkpoint.config)
    config = family.parse(checkpoint.config)
    chosen = choose(checkpoint.config, recipe_name)
    for name in levels:
        if name not in chosen.variant:
            raise UsageError(f"unknown level {name!r}", allowed=f"{', '.join(chosen.variant)} (recipe {chosen.name})")
    for role, level_name in parts.items():
        if role not in family.roles:
            raise UsageError(f"unknown part {role!r}", allowed=", ".join(family.roles))
        if level_of(level_name).format not in family.roles[role].formats:
            raise UsageError(f"{role} cannot be exported as {level_name}", allowed=f"levels of {', '.join(family.roles[role].formats)}")
    variants: dict[str, Mapping[str, str]] = {}
    for name in levels or chosen.variant:
        mixed = {**chosen.variant[name], **parts}
        # A variant that differs from the recipe's gets a name of its own: `Q4_0` must mean the same everywhere.
        changed = [f"{role}-{mixed[role]}" for role in mixed if mixed[role] != chosen.variant[name][role]]
        variants["+".join([name, *changed])] = mixed
    check_tensors(family, checkpoint, config)
    _check_tokenizer(checkpoint, config)
    return _Job(checkpoint, family, config, chosen, variants)


def _check_tokenizer(checkpoint: Checkpoint, config: Any) -> None:
    path = checkpoint.path("tokenizer.json")
    if path is None:
        raise ArtifactError(f"{checkpoint.root}: no tokenizer.json", remedy="download the checkpoint's tokenizer files too")
    vocabulary = load_tokenizer(path).get_vocab(with_added_tokens=True)
    token, highest = max(vocabulary.items(), key=lambda item: item[1])
    if highest >= config.text_config.vocab_size:
        raise ArtifactError(f"{path}: token {token!r} has id {highest}, the embedding has {config.text_config.vocab_size} rows")


def _existing(folder: Path, job: _Job) -> Manifest | None:
    """The artifact that is already there, if it is one that this job may add to."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file", allowed="a folder, or a name that is free")
    if not any(folder.iterdir()):
        return None
    if not (folder / manifests.FILE_NAME).is_file():
        raise ArtifactError(f"{folder}: is not empty and holds no artifact", allowed="an empty folder, or a name that is free")
    manifest = manifests.read(folder)
    if manifest.source.sha256 != job.checkpoint.sha256 or manifest.recipe != job.recipe.name:
        raise ArtifactError(
            f"{folder}: holds {manifest.title} from another source ({manifest.recipe}, {manifest.source.sha256[:16]}...)",
            remedy="export to another folder",
        )
    manifests.verify(folder, (manifest.tokenizer, *manifest.support_files, *(f for p in manifest.parts for f in p.files)))
    return manifest


# ---------------------------------------------------------------- writing


@contextmanager
def _staged(staging: Path, job: _Job, fresh: bool) -> Iterator[None]:
    """The staging folder: taken over where it is this job's, removed after an error, left after an interruption."""
    stamp = f"{__version__} {job.checkpoint.sha256} {job.recipe.name}\n"
    stamp_file = staging / ".stamp"
    resumable = stamp_file.is_file() and stamp_file.read_text(encoding="utf-8") == stamp
    if staging.exists() and (fresh or not resumable):
        shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True)
    stamp_file.write_text(stamp, encoding="utf-8")
    try:
        yield
    except EdgekitError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise ArtifactError(f"{staging}: {error.strerror or error}", remedy="check free space and permissions") from error


def _copy_existing(folder: Path, existing: Manifest | None, staging: Path) -> None:
    """Parts that are there already, by hard link where the file system has them: a variant may need them."""
    for entry in (file for part in (existing.parts if existing else ()) for file in part.files):
        target = staging / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(folder / entry.path, target)
            except OSError:
                shutil.copyfile(folder / entry.path, target)


def _copy_support(job: _Job, staging: Path) -> tuple[FileEntry, ...]:
    """Configuration and tokenizer files where users' own tools look for them, and the notices that must go along."""
    for name in job.checkpoint.files:
        if not name.endswith(".safetensors"):
            shutil.copyfile(job.checkpoint.root / name, staging / name)
    notice = staging / "NOTICE"
    notice.write_text(f"{job.recipe.license}\n\n{_modified(job)}\nNot a medical device.\n", encoding="utf-8")
    names = [name for name in job.checkpoint.files if not name.endswith(".safetensors")]
    return tuple(manifests.file_entry(staging, staging / name) for name in [*names, "NOTICE"])


def _modified(job: _Job) -> str:
    return f"Modified: converted and quantized by edgekit {__version__} from {job.recipe.source}, source SHA-256 {job.checkpoint.sha256}."


def _find_part(existing: Manifest | None, key: tuple[str, str]) -> Part | None:
    return next((part for part in (existing.parts if existing else ()) if (part.role, part.level) == key), None)


def _write_part(job: _Job, part_plan: PartPlan, staging: Path, progress: Progress) -> Part:
    """Write one part, or take it over from an interrupted run that finished it."""
    record = staging / f".{part_plan.role}-{part_plan.level.name}.json"
    if record.is_file():
        part = Part.model_validate_json(record.read_text(encoding="utf-8"))
        try:
            manifests.verify(staging, part.files)
            return part
        except ArtifactError:
            record.unlink()
    progress.start(f"{part_plan.role} {part_plan.level.name}", part_plan.weights)
    paths = writers.write(part_plan, job.recipe, staging, progress.advance)
    files = tuple(manifests.file_entry(staging, path) for path in paths)
    size = sum(file.bytes for file in files)
    part = Part(
        id=manifests.part_id(part_plan.role, part_plan.level.format, part_plan.level.name, files),
        role=part_plan.role,
        format=part_plan.level.format,
        level=part_plan.level.name,
        files=files,
        weights=part_plan.weights,
        bits_per_weight=round(size * 8 / part_plan.weights, 3),
        tensor_types=part_plan.histogram(),
        output=job.family.roles[part_plan.role].output,
        requires={**writers.requires(part_plan), "memory_bytes": size},
    )
    record.write_text(part.model_dump_json(), encoding="utf-8")
    return part


def _manifest(job: _Job, existing: Manifest | None, made: Mapping[tuple[str, str], Part],
              support: tuple[FileEntry, ...], staging: Path) -> Manifest:  # fmt: skip
    new = {name: {role: made[role, level_name].id for role, level_name in parts.items()} for name, parts in job.variants.items()}
    old = dict(existing.variants) if existing else {}
    parts = {part.id: part for part in (*(existing.parts if existing else ()), *made.values())}
    # In the recipe's order, whatever was exported first.
    merged = {**old, **new}
    order = [*(name for name in job.recipe.variant if name in merged), *sorted(set(merged) - set(job.recipe.variant))]
    default = job.recipe.default if job.recipe.default in merged else order[-1]
    return Manifest(
        recipe=job.recipe.name,
        title=job.recipe.title,
        family=job.family.name,
        stand_in=job.recipe.stand_in,
        license=job.recipe.license,
        modified=_modified(job),
        source=manifests.Source(name=job.recipe.source, sha256=job.checkpoint.sha256, files=job.checkpoint.files),
        tools={"edgekit": __version__, **{name: found for name in _TOOLS if (found := _version(name))}},
        preprocessing=job.family.preprocessing(job.checkpoint, job.config),
        tokenizer=manifests.file_entry(staging, staging / "tokenizer.json"),
        settings=job.family.settings(job.checkpoint, job.config),
        support_files=support,
        parts=tuple(sorted(parts.values(), key=lambda part: (part.role, part.format, part.level))),
        variants={name: merged[name] for name in order},
        default=default,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------- proving and publishing


def _prove(folder: Path, manifest: Manifest, plans: Mapping[tuple[str, str], PartPlan], recipe: Recipe,
           progress: Progress, variants: Sequence[str] = (), inputs: Inputs | None = None) -> Manifest:  # fmt: skip
    """Prove every part that has no parity yet, each opened as part of a variant that contains it."""
    todo = {part.id: part for part in manifest.parts if part.parity is None and (part.role, part.level) in plans}
    progress.start("proof", len(todo))
    first = next(iter(plans.values()))
    references = References(first.checkpoint, first.family, first.config)
    inputs = inputs or shipped_inputs()
    proven: dict[str, Part] = {}
    for name in variants or manifest.variants:
        here = [part for part in manifest.variant(name)[1].values() if part.id in todo and part.id not in proven]
        if not here:
            continue
        model = open_model(folder, name, context=CONTEXT)
        try:
            for part in here:
                parity = prove_part(plans[part.role, part.level], model, references, inputs, recipe.gates)
                proven[part.id] = part.model_copy(update={"parity": parity})
                progress.advance()
        finally:
            model.close()
    return manifest.model_copy(update={"parts": tuple(proven.get(part.id, part) for part in manifest.parts)})


def _publish(staging: Path, folder: Path, existing: Manifest | None, manifest: Manifest) -> None:
    manifests.write(staging, manifest)
    for leftover in staging.glob(".*"):
        leftover.unlink()
    if existing is None:
        staging.replace(folder)
        return
    known = {file.path for part in existing.parts for file in part.files}
    for file in (file for part in manifest.parts for file in part.files if file.path not in known):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (staging / file.path).replace(folder / file.path)
    (staging / manifests.FILE_NAME).replace(folder / manifests.FILE_NAME)
    shutil.rmtree(staging)

