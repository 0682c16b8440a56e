"""Which exporter writes a part: one entry per format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit import manifest as manifests
from edgekit.export.plan import PartPlan
from edgekit.manifest import FileEntry
from edgekit.progress import Progress
from edgekit.recipes import Recipe

Written = tuple[PartPlan, tuple[FileEntry, ...]]


def write(plans: Sequence[PartPlan], recipe: Recipe, folder: Path, progress: Progress) -> Iterator[Written]:
    """Write parts into a staging folder, each yielded when its files are complete."""
    for file_format, writer in _WRITERS.items():
        mine = [plan for plan in plans if plan.level.format == file_format]
        if mine:
            yield from writer(mine, recipe, folder, progress)


def names(plan: PartPlan, recipe: Recipe) -> tuple[str, ...]:
    """A part's files, relative to the artifact; the one that a runtime opens stands first."""
    role = plan.family.roles[plan.role]
    if plan.level.format == "gguf":
        prefix = "mmproj-" if role.gguf_architecture == "clip" else ""
        return (f"{prefix}{recipe.stem}-{plan.level.name}.gguf",)
    path = f"onnx/{role.onnx_stem}{plan.level.suffix}.onnx"
    return path, f"{path}_data"


def requires(plan: PartPlan) -> dict[str, Any]:
    """What a runtime must offer to open this part."""
    if plan.level.format == "gguf":
        return {"gguf_version": 3, "architecture": plan.family.roles[plan.role].gguf_architecture}
    from edgekit.export.onnx import OPSET

    return {"opset": OPSET, "domains": [""]}


def _gguf(plans: Sequence[PartPlan], recipe: Recipe, folder: Path, progress: Progress) -> Iterator[Written]:
    """All of them in one pass over the checkpoint."""
    from edgekit.export import gguf

    paths = {folder / names(plan, recipe)[0]: plan for plan in plans}
    for path, (digest, length) in gguf.write(paths, recipe, progress).items():
        yield paths[path], (FileEntry(path=path.name, sha256=digest, bytes=length),)


def _onnx(plans: Sequence[PartPlan], recipe: Recipe, folder: Path, progress: Progress) -> Iterator[Written]:
    from edgekit.export import calibrate, onnx

    for plan in plans:
        progress.start(f"{plan.role} {plan.level.name}", plan.weights)
        files = [folder / name for name in names(plan, recipe)]
        files[0].parent.mkdir(exist_ok=True)
        ranges = calibrate.measure(plan, calibrate.shipped(plan)) if plan.level.calibrated else None
        onnx.write(plan, files[0], ranges, progress.advance)
        yield plan, tuple(manifests.file_entry(folder, file) for file in files)


_WRITERS: dict[str, Callable[[Sequence[PartPlan], Recipe, Path, Progress], Iterator[Written]]] = {
    "gguf": _gguf,
    "onnx": _onnx,
}
