"""Write an export into its staging folder, `.DIR.partial` beside DIR, so that DIR never holds an unfinished file.

An interrupted run leaves the folder, and a rerun takes over the parts that it finished. Errors remove it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from edgekit import __version__
from edgekit import manifest as manifests
from edgekit.errors import ArtifactError
from edgekit.export import writers
from edgekit.export.job import Job
from edgekit.export.plan import PartPlan
from edgekit.manifest import FileEntry, Manifest, Part
from edgekit.progress import Progress

_TOOLS = (
    "gguf",
    "llama_cpp_python",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "tokenizers",
    "torch",
    "transformers",
)


@contextmanager
def staged(staging: Path, job: Job, fresh: bool) -> Iterator[None]:
    """The staging folder: taken over where it is this job's, removed after an error, left after an interruption."""
    stamp = f"{__version__} {job.checkpoint.sha256} {job.recipe.name}\n"
    stamp_file = staging / ".stamp"
    made = [parent for parent in staging.parents if not parent.exists()]
    interrupted = False
    try:
        resumable = stamp_file.is_file() and stamp_file.read_text(encoding="utf-8") == stamp
        if staging.exists() and (fresh or not resumable):
            shutil.rmtree(staging)
        staging.mkdir(parents=True, exist_ok=True)
        stamp_file.write_text(stamp, encoding="utf-8")
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    except OSError as error:
        where = error.filename or staging
        raise ArtifactError(f"{where}: {error.strerror or error}", remedy="check free space and permissions") from error
    finally:  # whatever went wrong, and whoever raised it; after publication there is nothing left to remove
        if not interrupted and staging.exists():
            _remove(staging, made)


def _remove(staging: Path, made: Sequence[Path]) -> None:
    """The staging folder, and the folders above it that were made for it."""
    shutil.rmtree(staging, ignore_errors=True)
    for parent in made:
        with suppress(OSError):
            parent.rmdir()


def copy_existing(folder: Path, existing: Manifest | None, staging: Path) -> None:
    """Parts that are there already, by hard link where the file system has them: a variant may need them."""
    for entry in (file for part in (existing.parts if existing else ()) for file in part.files):
        target = staging / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(folder / entry.path, target)
            except OSError:
                shutil.copyfile(folder / entry.path, target)


def copy_support(job: Job, staging: Path) -> tuple[FileEntry, ...]:
    """Configuration and tokenizer files where users' own tools look for them, and the notices that must go along."""
    for name in job.checkpoint.files:
        if not name.endswith(".safetensors"):
            shutil.copyfile(job.checkpoint.root / name, staging / name)
    notice = staging / "NOTICE"
    notice.write_text(f"{job.recipe.license}\n\n{_modified(job)}\nNot a medical device.\n", encoding="utf-8")
    names = [name for name in job.checkpoint.files if not name.endswith(".safetensors")]
    return tuple(manifests.file_entry(staging, staging / name) for name in [*names, "NOTICE"])


def _modified(job: Job) -> str:
    origin = f"{job.recipe.source}, source SHA-256 {job.checkpoint.sha256}"
    return f"Modified: converted and quantized by edgekit {__version__} from {origin}."


def find_part(existing: Manifest | None, key: tuple[str, str]) -> Part | None:
    return next((part for part in (existing.parts if existing else ()) if (part.role, part.level) == key), None)


def write_part(job: Job, part_plan: PartPlan, staging: Path, progress: Progress) -> Part:
    """Write one part, or take it over from an interrupted run that finished it."""
    record = staging / f".{part_plan.role}-{part_plan.level.name}.json"
    if finished := _finished(staging, record):
        return finished
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
        tools={"edgekit": __version__, **{name: found for name in _TOOLS if (found := _version(name))}},
    )
    record.write_text(part.model_dump_json(), encoding="utf-8")
    return part


def _finished(staging: Path, record: Path) -> Part | None:
    """The part that an interrupted run recorded, if its files are still what the record says."""
    try:
        part = Part.model_validate_json(record.read_bytes())
        manifests.verify(staging, part.files)
    except (FileNotFoundError, ValidationError, ArtifactError):
        return None
    return part


def manifest_of(
    job: Job,
    existing: Manifest | None,
    made: Mapping[tuple[str, str], Part],
    support: tuple[FileEntry, ...],
    staging: Path,
) -> Manifest:
    new = {
        name: {role: made[role, level_name].id for role, level_name in parts.items()}
        for name, parts in job.variants.items()
    }
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
        preprocessing=job.preprocessing,
        tokenizer=manifests.file_entry(staging, staging / "tokenizer.json"),
        settings=job.settings,
        support_files=support,
        parts=tuple(sorted(parts.values(), key=lambda part: (part.role, part.format, part.level))),
        variants={name: merged[name] for name in order},
        default=default,
        gates=job.recipe.gates,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
