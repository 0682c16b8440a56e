"""A plan: every variant of a model on a device, what fits, and which one to take, with what, and why."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekit.artifacts.levels import limits_of
from edgekit.errors import UsageError
from edgekit.machine.device import SOLD_AS, Device
from edgekit.planning.kernels import comparable, doubt
from edgekit.planning.parts import PlannedModel
from edgekit.planning.rows import SHAPED, Loss, Row, gigabytes, row
from edgekit.planning.times import is_fitted

Goal = Literal["fastest", "most-faithful", "smallest"]
GOALS: tuple[str, ...] = get_args(Goal)
_SLOWER = 1.5  # than the fastest: what a more faithful variant may take where no goal is named
_BY = "by what a proof lets its levels lose"


@dataclass(frozen=True)
class Plan:
    """All variants, and the one to take.

    Attributes:
        recommended: None where nothing fits, which `missing` then explains.
        reasons: why, one sentence each, without full stops.
        notes: what is not known of this device or model.
    """

    model: PlannedModel
    device: Device
    goal: Goal | None
    rows: tuple[Row, ...]
    recommended: Row | None
    reasons: tuple[str, ...] = ()
    missing: str = ""
    notes: tuple[str, ...] = field(default=())

    def chosen(self) -> Row:
        """The recommended one. Raises UsageError where nothing fits."""
        if self.recommended is None:
            raise nothing_fits(self)
        return self.recommended


def plan(
    model: PlannedModel, device: Device, goal: Goal | None = None, losses: Mapping[str, Loss] | None = None
) -> Plan:
    """What each variant takes on a device, and which one to take.

    Args:
        goal: without one, the most faithful of those that take at most half as long again as the fastest.
        losses: what is known of variants, by name.
    """
    known = losses or {}
    rows = tuple(row(name, parts, device, loss=known.get(name)) for name, parts in model.variants.items())
    able = [one for one in rows if one.fits and one.variant not in model.left_out]
    notes = (*_notes(device, rows), *_of_the_model(model))
    if not able:
        return Plan(model, device, goal, rows, None, missing=_missing(rows, device), notes=notes)
    best, why = _best(model, able, goal)
    return Plan(model, device, goal, rows, best, (why, *_reasons(best, device)), notes=notes)


def _best(model: PlannedModel, able: Sequence[Row], goal: Goal | None) -> tuple[Row, str]:
    timed = {one.variant: seconds for one in able if (seconds := one.times.answer_s()) is not None}
    if len(able) == 1:
        (best,) = able
        only = "the only one that fits" if len(model.variants) > 1 else "its only level, which fits"
        return best, ": ".join([only, *(_waits(timed[name], best) for name in timed)])
    fitting = f"of the {len(able)} that fit"
    if goal == "smallest":
        return min(able, key=lambda one: one.bytes), f"the smallest {fitting}"
    if goal == "most-faithful":
        return min(able, key=_faithfulness), f"the most faithful {fitting}, {_BY}"
    if len(timed) < len(able):
        return _untimed(model, able, goal)
    fastest = min(able, key=lambda one: timed[one.variant])
    waits = _waits(timed[fastest.variant], fastest)
    if goal == "fastest":
        return fastest, f"the fastest {fitting}: {waits}"
    near = [one for one in able if timed[one.variant] <= _SLOWER * timed[fastest.variant]]
    best = min(near, key=_faithfulness)
    if best is fastest:
        return best, f"the fastest, and the most faithful near it: {waits}"
    return best, (
        f"the most faithful, {_BY}, of the {len(near)} that take at most half as long again as the fastest "
        f"({fastest.variant}, {waits}): {_waits(timed[best.variant], best)}"
    )


def _untimed(model: PlannedModel, able: Sequence[Row], goal: Goal | None) -> tuple[Row, str]:
    """Where nothing says how long each takes: what a GPU runs alone is faster than what waits for main memory, and of
    two that lie alike the one that reads fewer bytes."""
    whole = [one for one in able if one.settings.gpu_whole]
    fitting = f"of the {len(whole)} that its GPU holds whole" if whole else f"of the {len(able)} that fit"
    if len(whole) == 1:
        best, said = whole[0], "the only one that its GPU holds whole"
    elif goal == "fastest":
        best, said = min(whole or able, key=lambda one: one.bytes), f"the smallest {fitting}, which reads the least"
    elif whole:
        best, said = min(whole, key=_faithfulness), f"the most faithful {fitting}, {_BY}"
    elif usual := next((one for one in able if one.variant == model.default), None):
        best, said = usual, "the recipe's default, which fits"
    else:
        best, said = min(able, key=lambda one: one.bytes), f"the smallest {fitting}"
    return best, f"{said}; times are not known on this device"


def _faithfulness(one: Row) -> tuple[float, float, int]:
    """Least first: what the limits of its levels allow them to lose, its main part's before all; then more bytes."""
    main, *_ = limits = [limits_of(level) for level in one.parts.values()]
    return main.loss_kl, sum(limit.loss_error for limit in limits), -one.bytes


def _waits(seconds: float, one: Row) -> str:
    what = "a question about an image with 100 tokens of answer" if one.times.first_token_s else "an image"
    guessed = {"first_token_s", "decode_tokens_per_s", "image_s"} & set(one.times.estimated)
    return f"{what} in {'~' if guessed else ''}{figure(seconds, 2)} s"


def figure(value: float, digits: int = 3) -> str:
    """So many digits or more, never as a power of ten: `2,560`, `25.6`, `0.00256`."""
    if value == 0:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}"


def _reasons(best: Row, device: Device) -> Iterator[str]:
    settings, used = best.settings, best.memory
    left = SOLD_AS * device.memory_gb
    yield f"it takes {gigabytes(used.total)} of the {left:.3g} GB that {device.name} leaves to programs"
    if settings.context:
        shorter = f", and not {device.context:,}," if settings.context < device.context else ""
        where = "lies with its layers," if settings.gpu_layers else f"takes {gigabytes(used.cache)} GB with"
        rounded = "8 bits (q8_0), for in 16 they find no room" if settings.cache_type == "q8_0" else "f16"
        images = f", room for {settings.images} images" if settings.images else ""
        yield f"a context of {settings.context:,} tokens{shorter} {where} keys and values in {rounded}{images}"
    if device.gpu_memory_gb:
        moved = ["the vision part"] if settings.gpu_vision else []
        moved += ["the output layer", f"{settings.gpu_layers - 1} layers"] if settings.gpu_layers else []
        what = "all of it" if settings.gpu_whole else ", ".join(moved) or "nothing"
        yield f"on its GPU: {what}, {gigabytes(used.gpu)} of {device.gpu_memory_gb:g} GB"


def _notes(device: Device, rows: Sequence[Row]) -> Iterator[str]:
    if not device.gflops:
        yield f"{device.name} states no gflops, so nothing says how long prompts and images take"
    if device.disk_gb_s is None:
        yield f"{device.name} states no disk_gb_s, so nothing says how long a cold load takes"
    if disturbed := doubt(device):
        yield (
            f"all times are estimates: while the limits of {device.name} were measured, {disturbed}; "
            "edgekit profile measures again"
        )
    elif not comparable(device):
        yield (
            f"all times are estimates: what kernels reach of a processor's limits was measured on x86-64 with AVX-512 "
            f"and without AMX, where those limits were measured, too; {device.name} is another ({device.cpu})"
        )
    if any(one.memory.gpu for one in rows):
        lacking = [name for name in ("gpu_bandwidth_gb_s", "gpu_gflops") if getattr(device, name) is None]
        if lacking:
            yield f"{device.name} states no {' and no '.join(lacking)}, so nothing says how long its GPU takes"
        else:
            yield "times of what its GPU runs are estimates by its bandwidth and rate of products; none was measured"


def _of_the_model(model: PlannedModel) -> Iterator[str]:
    if not all(is_fitted(part) for parts in model.variants.values() for part in parts):
        yield (
            "all times are estimates: what a matrix takes was measured of wider ones, and in a narrow model what is no "
            "arithmetic counts most"
        )


def _missing(rows: Sequence[Row], device: Device) -> str:
    """What the least demanding variant lacks."""
    least = min(rows, key=lambda one: one.memory.total)
    return f"nothing fits {device.name}: {least.variant}, which takes the least, {least.against}"


def nothing_fits(made: Plan) -> UsageError:
    """The error for a plan without a recommendation."""
    if all(one.lacks == "shape" for one in made.rows):
        allowed, device = SHAPED, made.device.name
    else:
        allowed, device = "a device with more memory, or a smaller model", "NAME"
    return UsageError(
        f"{made.model.title}: {made.missing}",
        allowed=allowed,
        remedy=f"edgekit plan {shlex.quote(made.model.word)} --device {device}",
    )
