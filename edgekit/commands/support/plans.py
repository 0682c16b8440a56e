"""Plans for a device: how they are asked for, and in words."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.commands.support.printing import table

if TYPE_CHECKING:
    from edgekit.planning import Goal, Loss, Plan, PlannedModel, Row

_GOALS = ("fastest", "most-faithful", "smallest")
_SHIPPED = Path(__file__).resolve().parents[3] / "benchmarks" / "results"  # of a checkout


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
    from edgekit.checkpoints import reference_models
    from edgekit.errors import UsageError

    shipped = [path for name in reference_models.NAMES if (path := _SHIPPED / f"{name}.json").is_file()]
    found: dict[str, Loss] = {}
    for path in (*records, *(path for path in shipped if model.name.startswith("reference-"))):
        known = losses(bench.read(path).records, model, path.name)
        if path in records and not known:
            raise UsageError(
                f"{path}: says nothing of what any level of this model lost",
                allowed=f"results of {model.title}, of the same checkpoint and the same parts",
            )
        for level, loss in known.items():
            found.setdefault(level, loss)
    return found


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
    used = {**asdict(row.memory), "total": row.memory.total, "own": row.memory.own, "peak": row.memory.peak}
    return {
        "parts": dict(row.parts),
        "bytes": row.bytes,
        "fits": row.fits,
        "against": row.against,
        "on_request": left_out,
        "settings": asdict(row.settings),
        "memory": used,
        "times": asdict(row.times),
        "loss": row.loss and {**row.loss.figures, "source": row.loss.source},
    }


def plan_lines(made: Plan) -> Iterator[str]:
    """A plan for people."""
    device = made.device
    yield f"{made.model.title} on {device.title} ({device.name})"
    if made.model.stand_in:
        yield f"stand-in  {made.model.stand_in}"
    yield from table([_cells(made, row) for row in made.rows])
    if left := [row.variant for row in made.rows if row.variant in made.model.left_out]:
        yield f"not recommended, for they are made only when they are named: {', '.join(left)}"
    for note in made.notes:
        yield f"note      {note}"
    if best := made.recommended:
        settings = best.settings
        yield f"take      {best.variant}"
        for reason in made.reasons:
            yield f"          {reason}"
        words = [f"{settings.threads} threads"]
        if settings.context:
            words += [f"context {settings.context}", f"cache {settings.cache_type}"]
        if device.gpu_memory_gb:
            words.append(f"{settings.gpu_layers} layers on the GPU")
        if settings.images:
            words.append(f"at most {settings.images} images")
        yield f"with      {', '.join(words)}"


def _cells(made: Plan, row: Row) -> dict[str, str]:
    times, chat = row.times, row.settings.context > 0
    mark = "*" if row is made.recommended else " " if row.fits else "-"
    cells = {
        " ": mark,
        "level": row.variant,
        "files GB": _gb(row.bytes),
        "memory GB": _gb(row.memory.total),
        "load s": _seconds(times.load_cold_s if times.load_cold_s is not None else times.load_s),
        "image s": _seconds(times.image_s),
    }
    if chat:
        cells |= {
            "cache GB": _gb(row.memory.cache),
            "first token s": _seconds(times.first_token_s),
            "decode tok/s": _number(times.decode_tokens_per_s),
        }
    cells["lost"] = _lost(row)
    cells["fits"] = "yes" if row.fits else row.against
    return cells


def _lost(row: Row) -> str:
    if row.loss is None:
        return "?"
    named = {"kl": "KL {:.2g}", "cosine_image": "cosine {:.4f}", "cosine": "cosine {:.4f}"}
    said = [form.format(row.loss.figures[name]) for name, form in named.items() if name in row.loss.figures]
    if "accuracy_drop" in row.loss.figures:
        said.append(f"{round(row.loss.figures['accuracy_drop'], 1) + 0.0:.1f} points lost at worst")
    return ", ".join(said) or "?"


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}"


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
