"""Plans for a device: how they are asked for, and in words."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from edgekit.commands.support.printing import table

if TYPE_CHECKING:
    from edgekit.planning import Goal, Loss, Plan, PlannedModel, Row

_GOALS = ("fastest", "most-faithful", "smallest")
_SHIPPED = Path(__file__).resolve().parents[3] / "benchmarks" / "results"  # of a checkout
_WIDTH = 120  # columns
_LEAST_KL = 1e-4  # nats; what is less is shown as that
_OF_CHATS = {"KV GB", "first s", "tok/s"}


def add_goal(parser: ArgumentParser) -> None:
    """`--goal`."""
    parser.add_argument(
        "--goal",
        choices=_GOALS,
        help="what counts of what fits; without it, the most faithful of those that take at most half as long again as "
        "the fastest",
    )


def planned(
    model: str, device: str, goal: Goal | None, recipe: str | None = None, records: Sequence[Path] = ()
) -> Plan:
    """The plan for a model, with what records know of its levels. Raises EdgekitError."""
    from edgekit import planning
    from edgekit.machine import devices

    known = planning.planned_model(model, recipe)
    return planning.plan(known, devices.device(device), goal, _losses(known, records))


def _losses(model: PlannedModel, records: Sequence[Path]) -> dict[str, Loss]:
    """Of the records that are named, and of those of this checkout; the first that knows a level counts.

    Raises:
        UsageError: results that are named say nothing of this model.
    """
    from edgekit import bench
    from edgekit.bench.losses import losses
    from edgekit.errors import UsageError

    found: dict[str, Loss] = {}
    for path in (*records, *_shipped(model)):
        known = losses(bench.read(path).records, model, path.name)
        if path in records and not known:
            raise UsageError(
                f"{path}: says nothing of what any level of this model lost",
                allowed=f"results of {model.title}, of the same checkpoint and the same parts",
            )
        for level, loss in known.items():
            found.setdefault(level, loss)
    return found


def _shipped(model: PlannedModel) -> Iterator[Path]:
    """Results of this checkout that speak of a recipe; of one alone nobody knows whether it is for their checkpoint."""
    from edgekit.bench.document import MARK

    said = [f'"{MARK}": ', f'"recipe": {json.dumps(model.name)}']
    for path in sorted(_SHIPPED.glob("*.json")) if model.sha256 else []:
        text = path.read_text(encoding="utf-8")
        if all(words in text for words in said):
            yield path


def plan_json(made: Plan) -> dict[str, Any]:
    """What a program reads of a plan; bytes and seconds."""
    return {
        "model": made.model.name,
        "title": made.model.title,
        "stand_in": made.model.stand_in,
        "planned_from": made.model.source,
        "device": made.device.name,
        "goal": made.goal,
        "recommended": made.recommended and made.recommended.variant,
        "reasons": list(made.reasons),
        "missing": made.missing,
        "notes": list(made.notes),
        "variants": {row.variant: _row_json(row, row.variant in made.model.left_out) for row in made.rows},
    }


def _row_json(row: Row, left_out: bool) -> dict[str, Any]:
    """`estimated`: whether a time is one that nobody measured; `times` has the names of those."""
    used = {**asdict(row.memory), "total": row.memory.total, "own": row.memory.own, "peak": row.memory.peak}
    return {
        "parts": dict(row.parts),
        "bytes": row.bytes,
        "fits": row.fits,
        "against": row.against,
        "on_request": left_out,
        "settings": asdict(row.settings),
        "memory": None if row.lacks == "shape" else used,
        "times": asdict(row.times),
        "estimated": bool(row.times.estimated),
        "loss": row.loss and {**row.loss.figures, "source": row.loss.source},
    }


def plan_lines(made: Plan) -> Iterator[str]:
    """A plan for people, 120 columns wide at most."""
    device = made.device
    yield f"{made.model.title} on {device.title} ({device.name})"
    if made.model.stand_in:
        yield from _wrapped("stand-in", made.model.stand_in)
    lines = table([_cells(made, row) for row in made.rows])
    yield from lines
    yield from _wrapped("legend", _legend(made, "\n".join(lines)))
    if left := [row.variant for row in made.rows if row.variant in made.model.left_out]:
        yield from _wrapped("note", f"not recommended, for they are made only when they are named: {', '.join(left)}")
    for note in made.notes:
        yield from _wrapped("note", note)
    if best := made.recommended:
        settings = best.settings
        yield f"take      {best.variant}"
        for reason in made.reasons:
            yield from _wrapped("", reason)
        words = [f"{settings.threads} threads"]
        if settings.context:
            words += [f"context {settings.context}", f"cache {settings.cache_type}"]
        if device.gpu_memory_gb and settings.context:
            words.append(f"{settings.gpu_layers} layers on the GPU, the output counted")
        if settings.images:
            words.append(f"at most {settings.images} images")
        yield f"with      {', '.join(words)}"


def _wrapped(head: str, text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=f"{head:<10}", subsequent_indent=f"{'':<10}", break_on_hyphens=False)


def _legend(made: Plan, shown: str) -> str:
    """What the marks in a table mean that are in it."""
    from edgekit.machine.device import SOLD_AS

    device, lacking = made.device, {row.lacks for row in made.rows}
    said = {
        "\n*": "* to be taken",
        "~": "~ estimated, not measured",
        "?": "? not known",
        "KV GB": "KV: keys and values of the context in main memory",
        "first s": "first: from a question, about an image where it sees, to the first token",
        " pt": "pt: points of accuracy lost at worst; below 0 it gained some",
    }
    words = [text for mark, text in said.items() if mark in shown]
    if "weights" in lacking:
        words.append(f"no, weights: more than the {device.model_memory_gb:g} GB that {device.title} gives a model")
    if "memory" in lacking:
        left = SOLD_AS * device.memory_gb
        words.append(f"no, memory: with its context more than the {left:.3g} GB that {device.title} leaves to programs")
    if "shape" in lacking:
        words.append("no, shape: no file here states it, so nothing says what running it takes")
    return "; ".join(words)


def _cells(made: Plan, row: Row) -> dict[str, str]:
    from edgekit.planning import figure

    times, chat = row.times, row.settings.context > 0

    def timed(name: str) -> str:
        value = getattr(times, name)
        return "?" if value is None else f"{'~' if name in times.estimated else ''}{figure(value, 2)}"

    cells = {
        " ": "*" if row is made.recommended else " " if row.fits else "-",
        "level": row.variant,
        "file GB": _gb(row.bytes),
        "mem GB": "?" if row.lacks == "shape" else _gb(row.memory.total),
        "GPU GB": "?" if row.lacks == "shape" else _gb(row.memory.gpu),
        "load s": timed("load_s" if times.load_cold_s is None else "load_cold_s"),
        "image s": timed("image_s"),
        "KV GB": "?" if row.lacks == "shape" else _gb(row.memory.cache),
        "first s": timed("first_token_s"),
        "tok/s": timed("decode_tokens_per_s"),
        "lost": _lost(row),
        "fits": "yes" if row.fits else f"no, {row.lacks}",
    }
    absent = {"GPU GB"} if not made.device.gpu_memory_gb else set()
    return {name: cell for name, cell in cells.items() if name not in absent | (set() if chat else _OF_CHATS)}


def _lost(row: Row) -> str:
    figures, said = row.loss.figures if row.loss else {}, []
    if "kl" in figures:
        said.append(f"KL {figures['kl']:.2g}" if figures["kl"] >= _LEAST_KL else f"KL <{_LEAST_KL:.4f}")
    said += [f"cosine {figures[name]:.4f}" for name in ("cosine_image", "cosine") if name in figures]
    if "accuracy_drop" in figures:
        said.append(f"{round(figures['accuracy_drop'], 1) + 0.0:.1f} pt")
    return ", ".join(said) or "?"


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}" if count else "0"
