"""Which exporter writes a part: one entry per format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.export.plan import PartPlan, Progress
from edgekit.recipes import Recipe


def write(plan: PartPlan, recipe: Recipe, folder: Path, progress: Progress) -> list[Path]:
    """Write one part into a staging folder and return its files, the one that a runtime opens first."""
    return _WRITERS[plan.level.format](plan, recipe, folder, progress)


def requires(plan: PartPlan) -> dict[str, Any]:
    """What a runtime must offer to open this part."""
    if plan.level.format == "gguf":
        return {"gguf_version": 3, "architecture": plan.family.roles[plan.role].gguf_architecture}
    from edgekit.export.onnx import OPSET

    return {"opset": OPSET, "domains": [""]}


def _gguf(plan: PartPlan, recipe: Recipe, folder: Path, progress: Progress) -> list[Path]:
    from edgekit.export import gguf

    prefix = "mmproj-" if plan.family.roles[plan.role].gguf_architecture == "clip" else ""
    path = folder / f"{prefix}{recipe.stem}-{plan.level.name}.gguf"
    gguf.write(plan, recipe, path, progress)
    return [path]


def _onnx(plan: PartPlan, recipe: Recipe, folder: Path, progress: Progress) -> list[Path]:
    from edgekit.export import calibrate, onnx

    path = folder / "onnx" / f"{plan.family.roles[plan.role].onnx_stem}{plan.level.suffix}.onnx"
    path.parent.mkdir(exist_ok=True)
    ranges = calibrate.measure(plan, calibrate.shipped(plan)) if plan.level.calibrated else None
    onnx.write(plan, path, ranges, progress)
    return [path, path.with_name(f"{path.name}_data")]


_WRITERS: dict[str, Callable[[PartPlan, Recipe, Path, Progress], list[Path]]] = {"gguf": _gguf, "onnx": _onnx}
