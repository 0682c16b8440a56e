"""Which exporter writes a part: one entry per format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import FileEntry
from edgekit.artifacts.recipes import Recipe
from edgekit.export import calibration
from edgekit.export.plan import PartPlan
from edgekit.inputs.samples import Inputs, shipped_inputs
from edgekit.progress import Progress

Written = tuple[PartPlan, tuple[FileEntry, ...]]


def write(
    plans: Sequence[PartPlan], recipe: Recipe, inputs: Inputs | None, folder: Path, progress: Progress
) -> Iterator[Written]:
    """Write parts into a staging folder, each yielded when its files are complete.

    Args:
        inputs: what is calibrated on, None for what comes with edgekit. Plans come back with what that found.
    """
    for file_format, writer in _WRITERS.items():
        mine = [plan for plan in plans if plan.level.format == file_format]
        if mine:
            yield from writer(mine, recipe, inputs, folder, progress)


def names(plan: PartPlan, recipe: Recipe) -> tuple[str, ...]:
    """A part's files, relative to the artifact; the one that a runtime opens stands first."""
    role = plan.family.roles[plan.role]
    if plan.level.format == "gguf":
        prefix = "mmproj-" if role.gguf_architecture == "clip" else ""
        return (f"{prefix}{recipe.stem}-{plan.level.name}.gguf",)
    graphs = [f"onnx/{stem}{plan.level.suffix}.onnx" for stem in role.onnx_stems]
    found = (calibration_file(plan),) if plan.level.activations == "static" else ()
    return graphs[0], f"{graphs[0]}_data", *found, *graphs[1:]


def calibration_file(plan: PartPlan) -> str:
    """What was measured for a part that quantizes activations by measured ranges, relative to the artifact."""
    return f"onnx/{plan.family.roles[plan.role].onnx_stems[0]}{plan.level.suffix}{calibration.SUFFIX}"


def material(plan: PartPlan, inputs: Inputs | None) -> str | None:
    """What the ranges of a part's activations would be measured on, None where its level needs none."""
    if plan.level.activations != "static":
        return None
    from edgekit.export import calibrate

    return calibrate.material_of(plan, inputs or shipped_inputs()).name


def named(plan: PartPlan, inputs: Inputs) -> str | None:
    """The same, of a part that is measured on something that a user named; None of others."""
    from edgekit.export import calibrate

    return material(plan, inputs) if calibrate.named(plan, inputs) else None


def requires(plan: PartPlan, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What a runtime must offer to open this part, whose files are complete."""
    if plan.level.format == "gguf":
        return {"gguf_version": 3, "architecture": plan.family.roles[plan.role].gguf_architecture}
    from edgekit.formats.onnx import header as onnx_header
    from edgekit.runtime.onnx import support as ort_support

    graphs = [folder / name for name in names(plan, recipe) if name.endswith(".onnx")]
    return ort_support.requires([onnx_header.read(path) for path in graphs])


def _gguf(
    plans: Sequence[PartPlan], recipe: Recipe, inputs: Inputs | None, folder: Path, progress: Progress
) -> Iterator[Written]:
    """All of them in one pass over the checkpoint."""
    from edgekit.formats.gguf import writer as gguf

    paths = {folder / names(plan, recipe)[0]: plan for plan in plans}
    for path, (digest, length) in gguf.write(paths, recipe, progress).items():
        yield paths[path], (FileEntry(path=path.name, sha256=digest, bytes=length),)


def _onnx(
    plans: Sequence[PartPlan], recipe: Recipe, inputs: Inputs | None, folder: Path, progress: Progress
) -> Iterator[Written]:
    """All of them in one pass over the checkpoint, behind those of calibration for each that needs it."""
    from edgekit.export import calibrate
    from edgekit.formats.onnx import writer as onnx

    (folder / "onnx").mkdir(exist_ok=True)
    parts = []
    for plan in plans:
        first, data, *others = (folder / name for name in names(plan, recipe))
        if plan.level.activations == "static":
            found, *others = others
            plan = calibrate.calibrated(plan, inputs or shipped_inputs(), found, data, progress)
        parts.append((plan, onnx.Files((first, *others), data)))
    written = onnx.write(parts, progress)
    for plan, files in parts:
        digest, length = written[files.data]
        entry = FileEntry(path=files.data.relative_to(folder).as_posix(), sha256=digest, bytes=length)
        measured = (folder / calibration_file(plan),) if plan.calibration else ()
        first, *others = files.graphs
        behind = (manifests.file_entry(folder, path) for path in (*measured, *others))
        yield plan, (manifests.file_entry(folder, first), entry, *behind)


_WRITERS: dict[str, Callable[[Sequence[PartPlan], Recipe, Inputs | None, Path, Progress], Iterator[Written]]] = {
    "gguf": _gguf,
    "onnx": _onnx,
}
