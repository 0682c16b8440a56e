"""Write an export into its staging folder, `.DIR.partial` beside DIR, so that DIR never holds an unfinished file.

An interrupted run leaves the folder, and so does a full disk; a rerun goes on from there. Bad input and failed gates
remove it. While an export runs, the folder is locked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, cast

from pydantic import Strict, TypeAdapter

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import copy, create, link_or_copy, write_atomically
from edgekit.artifacts.folders import STAMP, claimed, empty, remove, take_back
from edgekit.artifacts.manifest import FileEntry, Manifest, Part, Requires
from edgekit.artifacts.validation import Name, Text, validated
from edgekit.artifacts.version import __version__
from edgekit.checkpoints.sources import reference_model_of
from edgekit.errors import ArtifactError, EdgekitError, MissingDependencyError, NoSpaceError, UsageError
from edgekit.export import llama_programs, material, writers
from edgekit.export.job import Job
from edgekit.families.source import TOKENIZER, Source
from edgekit.formats.plan import PartPlan
from edgekit.inputs.samples import Inputs
from edgekit.progress import Progress

_TOOLS = (
    "gguf",
    "llama_cpp_python",
    "numpy",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
)

_STAMP: TypeAdapter[dict[str, str]] = TypeAdapter(Annotated[dict[Name, Text], Strict()])
METHOD = 4  # of making files: raise it whenever the same plan gives other bytes than before
_SUPPORT_BYTES = 64_000_000  # tokenizer files, the vocabulary in a GGUF header and the like


@contextmanager
def staged(staging: Path, job: Job, fresh: bool) -> Iterator[None]:
    """The staging folder, claimed: gone on with where it is this job's, kept or removed as the module says.

    Raises:
        ArtifactError: another command is at work there, it is somebody else's, or the file system refused something.
    """
    made = [parent for parent in staging.parents if not parent.exists()]
    again = f"make room and run the same command again: it goes on where it stopped; or remove {staging}"
    with file_errors(staging, again), claimed(staging):
        stamp, before = _stamp(job), _noted(staging / STAMP)
        alike = all(before.get(part, how) == how for part, how in stamp.items())
        resumed = not fresh and bool(before) and alike
        if resumed:
            take_back(staging)
        else:
            empty(staging)
        stamp = {**before, **stamp} if resumed else stamp
        write_atomically(staging / STAMP, json.dumps(stamp))
        try:
            yield
        except EdgekitError as error:
            # What was right before an error of the surroundings is right after it.
            keep = isinstance(error, MissingDependencyError) or (isinstance(error, NoSpaceError) and resumed)
            if not keep:
                remove(staging, made)
            raise
        remove(staging)


def _stamp(job: Job) -> dict[str, str]:
    """Whose work the folder holds, and how each part is made: all being equal, so are the bytes."""
    recipe = hashlib.sha256(job.recipe.model_dump_json().encode()).hexdigest()
    common = f"{__version__} {METHOD} {job.source.checkpoint.stamp} {recipe} {_version('llama_cpp_python')}"
    return {"artifact": common, **{f"{plan.role} {plan.level.name}": _how(plan) for plan in job.plans()}}


def _how(plan: PartPlan) -> str:
    """How a part is made: what becomes of each tensor, what of activations, and by what those are measured."""
    static = plan.level.needs_calibration
    tools = [_version(name) for name in ("torch", "transformers")] if static else []
    tensors = [(planned.spec, planned.codec, planned.shape) for planned in plan.tensors]
    return hashlib.sha256(repr((plan.level.activations, tools, tensors)).encode()).hexdigest()


def _noted(stamp: Path) -> dict[str, str]:
    """What an interrupted run noted; nothing where there was none, or it noted something else."""
    try:
        found = validated(_STAMP, read_json(stamp, ArtifactError), str(stamp), ArtifactError)
    except ArtifactError:
        return {}
    return found if "artifact" in found else {}


def check_space(staging: Path, plans: Sequence[PartPlan], job: Job, proof_bytes: int = 0) -> None:
    """Refuse to start what cannot end for want of disk.

    Args:
        proof_bytes: what their proof takes beside them.

    Raises:
        NoSpaceError: the disk has less room than the parts need; says how much that is.
    """
    files = [staging / name for plan in plans for name in writers.names(plan, job.recipe.stem)]
    there = sum(path.stat().st_size for path in files if path.is_file())
    need = sum(plan.bytes for plan in plans) + _SUPPORT_BYTES + proof_bytes - there
    free = shutil.disk_usage(staging).free
    if need > free:
        proof = f" ({proof_bytes / 1e9:.1f} GB of that for a while, to prove them)" if proof_bytes else ""
        raise NoSpaceError(
            f"{staging.parent}: {need / 1e9:.1f} GB are needed for {len(plans)} parts{proof}, {free / 1e9:.1f} GB are "
            "free",
            remedy="make room, choose another disk with --to, or fewer levels with --level",
        )


def copy_existing(folder: Path, existing: Manifest | None, staging: Path) -> None:
    """Parts that are there already, by hard link where the file system has them: a variant may need them."""
    for entry in (file for part in (existing.parts if existing else ()) for file in part.files):
        target = staging / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            link_or_copy(folder / entry.path, target)


def copy_support(job: Job, staging: Path) -> tuple[FileEntry, ...]:
    """Configuration and tokenizer files where users' own tools look for them, and the notices that must go along."""
    source = job.source
    made = {"NOTICE": f"{job.recipe.license}\n\n{_modified(job)}\nNot a medical device.\n".encode()}
    if tokenizer := source.made_tokenizer:
        made[TOKENIZER] = tokenizer
    made |= source.family.made_files(source.checkpoint, source.settings)
    copied = [name for name in source.checkpoint.files if not name.endswith(".safetensors") and name not in made]
    for name in copied:
        copy(source.checkpoint.root / name, staging / name)
    for name, data in made.items():
        with create(staging / name) as file:
            file.write(data)
    return tuple(manifests.file_entry(staging, staging / name) for name in [*copied, *made])


def _origin(job: Job) -> str:
    """What the checkpoint is: nobody knows whether the weights in a folder are those that its recipe names."""
    known = job.source.checkpoint.revision or reference_model_of(job.source.checkpoint.sha256)
    return job.recipe.source if known else f"a folder of the kind of {job.recipe.source}"


def _modified(job: Job) -> str:
    origin = f"{_origin(job)}, source SHA-256 {job.source.checkpoint.sha256}"
    return f"Modified: converted and quantized by edgekit {__version__} from {origin}."


def find_parts(
    source: Source, existing: Manifest | None, plans: Sequence[PartPlan], inputs: Inputs | None
) -> dict[tuple[str, str], Part]:
    """The parts that the artifact has already, by role and level.

    Raises:
        UsageError: a user names inputs, and one of these was calibrated on others.
    """
    there = {(part.role, part.level): part for part in (existing.parts if existing else ())}
    found = {plan.key: there[plan.key] for plan in plans if plan.key in there}
    for plan in plans:
        if inputs and plan.key in found and (named := material.name_of_given(source, plan, inputs)):
            before = found[plan.key].calibrated_on
            if before != named:
                raise UsageError(
                    f"{plan.role} {plan.level.name} is here already, calibrated on {before}, not on {named}",
                    remedy="export to another folder, or leave --images and --text out",
                )
    return found


def write_parts(
    job: Job,
    plans: Sequence[PartPlan],
    inputs: Inputs | None,
    staging: Path,
    progress: Progress,
    proof_bytes: int = 0,
) -> dict[tuple[str, str], Part]:
    """Write parts by role and level; those that an interrupted run finished, on the same inputs, are taken over.

    Args:
        proof_bytes: see `check_space`.
    """
    records = {plan.key: staging / f".{plan.role}-{plan.level.name}.json" for plan in plans}
    finished = {
        plan.key: part for plan in plans if (part := _finished(job.source, staging, records[plan.key], plan, inputs))
    }
    todo = [plan for plan in plans if plan.key not in finished]
    check_space(staging, todo, job, proof_bytes)
    for plan, files in writers.write(job.source, todo, writers.label_of(job.recipe), inputs, staging, progress):
        finished[plan.key] = _part(job, plan, files, staging)
        write_atomically(records[plan.key], finished[plan.key].model_dump_json())
    return finished


def _part(job: Job, plan: PartPlan, files: tuple[FileEntry, ...], staging: Path) -> Part:
    size = sum(file.bytes for file in files)
    requires = writers.requires(plan, staging, job.recipe.stem)
    return Part(
        id=manifests.part_id(plan.role, plan.level.format, plan.level.name, files),
        role=plan.role,
        format=plan.level.format,
        level=plan.level.name,
        files=files,
        weights=plan.weights,
        bits_per_weight=round(size * 8 / plan.weights, 3),
        tensor_types=plan.histogram(),
        output=job.source.family.roles[plan.role].output,
        requires=cast("Requires", {**requires, "memory_bytes": max(size, plan.resident_bytes)}),
        calibrated_on=plan.calibration.inputs if plan.calibration else None,
        tools={
            "edgekit": __version__,
            **{name: found for name in _TOOLS if (found := _version(name))},
        },
    )


def _finished(source: Source, staging: Path, record: Path, plan: PartPlan, inputs: Inputs | None) -> Part | None:
    """The part that an interrupted run recorded, if its files are still what the record says.

    One that was calibrated on other inputs than are given now is made again.
    """
    try:
        part = validated(Part, read_json(record, ArtifactError), str(record), ArtifactError)
        manifests.verify(staging, part.files)
    except ArtifactError:
        return None
    return part if part.calibrated_on == material.name_of_material(source, plan, inputs) else None


def manifest_of(
    job: Job,
    existing: Manifest | None,
    made: Mapping[tuple[str, str], Part],
    support: tuple[FileEntry, ...],
    staging: Path,
) -> Manifest:
    """What the staging folder holds, in words: parts that were there and new ones, variants in the recipe's order."""
    new = {
        name: {role: made[role, level_name].id for role, level_name in parts.items()}
        for name, parts in job.variants.items()
    }
    old = dict(existing.variants) if existing else {}
    parts = {part.id: part for part in (*(existing.parts if existing else ()), *made.values())}
    # In the recipe's order, whatever was exported first.
    merged = {**old, **new}
    order = [*(name for name in job.recipe.variant if name in merged), *sorted(set(merged) - set(job.recipe.variant))]
    return Manifest(
        recipe=job.recipe.name,
        title=job.recipe.title,
        family=job.source.family.name,
        stand_in=job.stand_in,
        license=job.recipe.license,
        modified=_modified(job),
        source=manifests.SourceRecord(
            name=_origin(job),
            sha256=job.source.checkpoint.sha256,
            files=job.source.checkpoint.files,
            revision=job.source.checkpoint.revision,
        ),
        preprocessing=job.source.preprocessing,
        tokenizer=manifests.file_entry(staging, staging / TOKENIZER) if job.source.family.reads_text else None,
        settings=job.source.settings,
        support_files=support,
        served=job.served or (existing.served if existing else None),
        parts=tuple(sorted(parts.values(), key=lambda part: (part.role, part.format, part.level))),
        variants={name: merged[name] for name in order},
        default=_default(job, existing, merged),
        gates=job.gates,
    )


def _default(job: Job, existing: Manifest | None, variants: Mapping[str, object]) -> str:
    """The recipe's; without it the one that the artifact has; in a new one the first that was asked for."""
    if job.recipe.default in variants:
        return job.recipe.default
    return existing.default if existing else next(iter(job.variants))


def with_modelfiles(manifest: Manifest, staging: Path) -> Manifest:
    """The manifest with a Modelfile beside it for each variant that Ollama can run."""
    written = []
    for variant in manifest.variants:
        if text := llama_programs.modelfile(manifest, variant):
            path = staging / llama_programs.file_name(variant)
            with create(path) as file:
                file.write(text.encode())
            written.append(manifests.file_entry(staging, path))
    return manifest.model_copy(update={"support_files": (*manifest.support_files, *written)})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
