"""What there is, in words for people: artifacts, and the levels, recipes, devices and tasks that can be named."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts.manifest import FOREIGN, Manifest, Part
from edgekit.export import ollama


def artifact_lines(folder: Path, found: Manifest, only: set[str] | None = None) -> list[str]:
    """An artifact for people."""
    lines = [f"{found.title}  ({folder})"]
    if found.stand_in:
        lines.append(f"stand-in  {found.stand_in}")
    if found.foreign:
        lines.append(f"foreign   {FOREIGN}")
    lines += [
        f"source    {found.source.revision or found.source.name}, SHA-256 {found.source.sha256[:16]}...",
        f"licence   {found.license.splitlines()[0]}",
    ]
    for name, parts in found.variants.items():
        mark = " (default)" if name == found.default else ""
        lines.append(
            f"level     {name}{mark}: {', '.join(f'{role} {found.part(i).level}' for role, i in parts.items())}"
        )
    for part in found.parts:
        if only is None or part.id in only:
            lines += _part_lines(part)
    return lines


def _part_lines(part: Part) -> list[str]:
    size = sum(file.bytes for file in part.files)
    types = ", ".join(f"{name} {count / part.weights:.1%}" for name, count in part.tensor_types.items())
    head = (
        f"part      {part.role} {part.level}: {size / 1e6:.1f} MB, {part.bits_per_weight:.2f} bits per weight ({types})"
    )
    lines = [head, *(f"          {file.path}  {file.sha256[:16]}..." for file in part.files)]
    if part.parity is None:
        return [*lines, "          parity: not measured"]
    wiring, loss, unit = part.parity.wiring, part.parity.loss, "KL" if part.parity.metric == "kl" else "cosine"
    top = f", top-1 agreement {loss['top1']:.1%}" if "top1" in loss else ""
    return [
        *lines,
        f"          wiring {unit} {wiring['mean']:.6g} (worst {wiring['worst']:.6g}); "
        f"loss {unit} {loss['mean']:.6g}{top}; {part.parity.positions} compared, on {part.parity.inputs}",
    ]


def usage_lines(folder: Path, found: Manifest) -> list[str]:
    """The exact lines for users who run the files with llama.cpp's own server, or with Ollama.

    Of the default variant, or of the first that these can run.
    """
    options = {"decoder": "-m", "vision": "--mmproj"}
    for name in (found.default, *found.variants):
        parts = found.variant(name)[1]
        if {"decoder"} <= set(parts) <= set(options) and all(part.format == "gguf" for part in parts.values()):
            break
    else:
        return []
    files = [word for role, part in sorted(parts.items()) for word in (options[role], str(folder / part.files[0].path))]
    # Gemma 3's own chat template, flash attention (an image takes half the time), MedGemma's greedy decoding.
    served = ["llama-server", *files, "--jinja", "-fa", "on", "-c", str(ollama.server_context(found)), "--temp", "0"]
    lines = [f"run with  {shlex.join(served)}"]
    modelfile = ollama.file_name(name)
    if modelfile in {file.path for file in found.support_files}:
        lines.append(f"or with   {shlex.join(['ollama', 'create', 'NAME', '-f', str(folder / modelfile)])}")
    return lines


def _levels() -> list[dict[str, Any]]:
    from edgekit.artifacts.levels import LEVELS

    return [
        {
            "name": row.name,
            "format": row.format,
            "codec": row.codec,
            "activations": row.activations if row.format == "onnx" else "as llama.cpp does",
            "mixture": ", ".join(f"{kind} {codec}" for kind, codec in row.mixture.items()),
        }
        for row in LEVELS.values()
    ]


def _recipes() -> list[dict[str, Any]]:
    from edgekit.artifacts import find
    from edgekit.artifacts.recipes import recipe

    return [
        {"name": r.name, "title": r.title, "levels": ", ".join(r.variant), "source": r.source}
        for r in map(recipe, find.names("exports"))
    ]


def _devices() -> list[dict[str, Any]]:
    from edgekit.artifacts import find
    from edgekit.machine.devices import device

    fields = {"name", "title", "memory_gb", "model_memory_gb", "cores", "gpu_memory_gb"}
    return [device(name).model_dump(include=fields) for name in find.names("devices")]


def _tasks() -> list[dict[str, Any]]:
    from edgekit.artifacts import find
    from edgekit.bench.tasks import task

    return [{"name": t.name, "kind": t.kind, "dataset": t.dataset} for t in map(task, find.names("benchmarks"))]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows under their keys, in aligned columns."""
    cells = [
        list(rows[0]),
        *([f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


LISTS: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
    "levels": _levels,
    "recipes": _recipes,
    "devices": _devices,
    "tasks": _tasks,
}
