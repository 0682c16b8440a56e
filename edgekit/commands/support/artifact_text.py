"""An artifact in words for people: what it is, and how to run it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from edgekit.artifacts.gates import Gates, Limits, judged, spelled
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import Manifest, Parity, Part
from edgekit.commands.support import uses
from edgekit.errors import UsageError
from edgekit.export import llama_programs
from edgekit.machine.cpu import cpu
from edgekit.runtime import tuning_results

# How a figure is said that a limit judges.
_SAID = {
    "wiring_kl": "of a prompt {:.3g}",
    "wiring_error": "relative error {:.2g}",
    "wiring_worst_error": "at worst {:.2g}",
    "loss_kl": "KL {:.6g}",
    "loss_top1": "top-1 agreement {:.3g}",
    "loss_cosine": "cosine {:.6g}",
    "loss_error": "relative error {:.2g}",
}


def artifact_lines(folder: Path, manifest: Manifest, only: set[str] | None = None) -> list[str]:
    """An artifact for people."""
    lines = [f"{manifest.title}  ({folder})"]
    if manifest.stand_in:
        lines.append(f"stand-in  {manifest.stand_in}")
    if manifest.provenance:
        lines.append(f"foreign   {manifest.provenance}")
    source = manifest.source
    named = f"{source.revision or source.name}, SHA-256 {source.sha256[:16]}..."
    # Those of others are their own source, and have their hashes below.
    lines.append(f"source    {', '.join(source.files) if manifest.foreign else named}")
    lines.append(f"licence   {manifest.license.splitlines()[0]}")
    for name, parts in manifest.variants.items():
        mark = " (default)" if name == manifest.default else ""
        lines.append(
            f"level     {name}{mark}: {', '.join(f'{role} {manifest.part(i).level}' for role, i in parts.items())}"
        )
    levels = {part.id: f"{part.role} {part.level}" for part in manifest.parts}
    for part in manifest.parts:
        if only is None or part.id in only:
            lines += _part_lines(part, levels, manifest.gates)
    return lines


def _part_lines(part: Part, names: Mapping[str, str], gates: Gates) -> list[str]:
    size = sum(file.bytes for file in part.files)
    types = ", ".join(f"{name} {count / part.weights:.1%}" for name, count in part.tensor_types.items())
    head = (
        f"part      {part.role} {part.level}: {size / 1e6:.1f} MB, {part.bits_per_weight:.2f} bits per weight ({types})"
    )
    lines = [head, *(f"          {file.path}  {file.sha256[:16]}..." for file in part.files)]
    if part.parity is None:
        return [*lines, "          parity: not measured"]
    together = [
        f"          end to end: a question about an image, {names[eye]} before this decoder: KL {figures['mean']:.6g}"
        for eye, figures in part.parity.end_to_end.items()
        if eye in names
    ]
    return [
        *lines,
        *_audit_lines(part.parity.audit),
        *_exactness_lines(part.parity.exactness),
        *_parity_lines(part.parity, gates.limits(part.level, limits_of(part.level))),
        *together,
    ]


def _parity_lines(parity: Parity, limits: Limits) -> list[str]:
    """What was measured, each figure that refuses with its limit."""
    unit, compared = ("KL", "positions") if parity.metric == "kl" else ("cosine", "inputs")

    def said(stage: str, figures: Mapping[str, float]) -> str:
        shown = (
            f"{_SAID[name].format(measured)} ({spelled(name, getattr(limits, name))})"
            for name, measured in judged(parity.metric, stage, figures)
        )
        return ", ".join(shown)

    wiring = f"wiring {unit} {parity.wiring['mean']:.6g} (worst {parity.wiring['worst']:.6g})"
    return [
        f"          {wiring}, {said('wiring', parity.wiring)}",
        f"          loss {said('loss', parity.loss)}",
        f"          {parity.positions} {compared} compared, on {parity.inputs}",
    ]


def tuned_lines(manifest: Manifest) -> list[str]:
    """What `edgekit tune` chose here for its parts, and how far that lies from what was proven."""
    try:
        found = [tuning_results.load(part, cpu().usable_cores) for part in manifest.parts]
    except UsageError:  # a user without a home folder, who can have measured nothing
        return []
    return [f"tuned     {result}: {result.agreement}" for result in found if result]


def _audit_lines(audit: Mapping[str, float] | None) -> list[str]:
    if not audit or "worst" not in audit:
        return []
    counts = ", ".join(f"{audit[name]:,.0f} {name}" for name in ("tensors", "constants", "texts") if audit.get(name))
    rounded = f"relative error of a tensor at most {audit['worst']:.2g}"
    return [f"          audit {counts} as the checkpoint has them; {rounded}"]


def _exactness_lines(exactness: Mapping[str, float] | None) -> list[str]:
    if not exactness:
        return []
    named = {"kl": "KL", "error": "relative error"}
    figures = ", ".join(f"{named.get(name, name)} {value:.2g}" for name, value in exactness.items())
    return [f"          with exact weights {figures}"]


def usage_lines(folder: Path, manifest: Manifest) -> list[str]:
    """The exact lines that run the default level: with llama.cpp's own server and Ollama, or with edgekit alone.

    Where these cannot run the default, the smallest level that they can stands below it.
    """
    served = llama_programs.runnable(manifest)
    lines = _served_lines(folder, manifest, served) if served else []
    if served == manifest.default:
        return lines
    own = uses.command(folder, manifest, manifest.default)
    return [*([_level_line(manifest, manifest.default), f"with      {own}"] if own else []), *lines]


def _served_lines(folder: Path, manifest: Manifest, level: str) -> list[str]:
    command = llama_programs.server_command(folder, manifest, level)
    assert command, "only a level that it can run is served"
    lines = [_level_line(manifest, level), f"with      {shlex.join(command)}"]
    modelfile = llama_programs.file_name(level)
    if modelfile in {file.path for file in manifest.support_files}:
        lines.append(f"or with   {shlex.join(['ollama', 'create', 'NAME', '-f', str(folder / modelfile)])}")
    return lines


def _level_line(manifest: Manifest, level: str) -> str:
    return f"run       {level}{' (default)' if level == manifest.default else ''}"
