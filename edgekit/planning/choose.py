"""A plan: every variant of a model on a device, what fits, and which one to take, with what, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from edgekit.artifacts.levels import limits_of
from edgekit.errors import UsageError
from edgekit.machine.devices import SOLD_AS, Device
from edgekit.planning.kernels import CacheType
from edgekit.planning.memory import MemoryUse, memory_use, placement
from edgekit.planning.parts import PlannedModel, PlannedPart
from edgekit.planning.times import Times, times

Goal = Literal["fastest", "most-faithful", "smallest"]
GOALS: tuple[str, ...] = get_args(Goal)
LEAST_CONTEXT = 1024  # tokens; a shorter one is of no use with an image and an answer
_SLOWER = 1.5  # than the fastest: what a more faithful variant may take where no goal is named
_TEXT_SHARE, _MOST_TEXT = 4, 1024  # of a context, what is left for words beside images


@dataclass(frozen=True)
class Loss:
    """What a variant is known to have lost.

    Attributes:
        figures: by name, as records have them: `kl`, `accuracy_drop` in points, `cosine_image`, ...
        source: who says so.
    """

    figures: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Settings:
    """How a variant is run on a device.

    Attributes:
        context: tokens of prompt and answer together; 0 for a model that has none.
        cache_type: what its keys and values are rounded to.
        gpu_layers: of its decoder that a GPU runs, as the library counts them; `gpu_vision`, whether its encoder, too.
        images: that a context holds, beside a fourth of it, or 1,024 tokens, for words.
    """

    threads: int
    context: int = 0
    cache_type: CacheType = "f16"
    gpu_layers: int = 0
    gpu_vision: bool = False
    images: int = 0


@dataclass(frozen=True)
class Row:
    """One variant on a device.

    Attributes:
        parts: role -> level.
        bytes: of its files.
        against: why it does not fit; empty where it does.
    """

    variant: str
    parts: Mapping[str, str]
    bytes: int
    settings: Settings
    memory: MemoryUse
    times: Times
    loss: Loss | None
    against: str = ""

    @property
    def fits(self) -> bool:
        """Whether the device can run it."""
        return not self.against


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
    notes = tuple(_notes(device, rows))
    if not able:
        return Plan(model, device, goal, rows, None, missing=_missing(rows, device), notes=notes)
    best, why = _best(model, able, goal)
    return Plan(model, device, goal, rows, best, (why, *_reasons(best, device)), notes=notes)


def row(
    name: str, parts: Sequence[PlannedPart], device: Device, context: int | None = None, loss: Loss | None = None
) -> Row:
    """One variant on a device, with the longest context up to the wanted one, and its keys and values in half
    precision, where memory allows both; in 8 bits before the context is halved.

    Args:
        context: that must be; the device's, or as much of it as fits, for None.
    """
    tried = [_settled(parts, device, tokens, kind) for tokens, kind in _contexts(parts, device, context)]
    settings, used, against = next((one for one in tried if not one[2]), tried[-1])
    size = sum(part.bytes for part in parts)
    on_gpu = settings.gpu_layers > 0 or settings.gpu_vision
    levels = {part.role: part.level for part in parts}
    return Row(
        name, levels, size, settings, used, Times() if on_gpu else times(parts, device), loss or _proven(parts), against
    )


def _contexts(parts: Sequence[PlannedPart], device: Device, context: int | None) -> Iterator[tuple[int, CacheType]]:
    decoder = next((part for part in parts if part.kind == "decoder"), None)
    if decoder is None:
        yield 0, "f16"
        return
    most = decoder.decoder.context if decoder.decoder else device.context
    tokens = min(context or device.context, most)
    while True:
        yield from ((tokens, kind) for kind in decoder.library.caches)
        if context or tokens // 2 < LEAST_CONTEXT:
            return
        tokens //= 2


def _settled(
    parts: Sequence[PlannedPart], device: Device, context: int, cache_type: CacheType
) -> tuple[Settings, MemoryUse, str]:
    placed = placement(parts, context, cache_type, int(1e9 * device.gpu_memory_gb))
    used = memory_use(parts, context, cache_type, placed)
    if device.unified_memory:
        used = replace(used, shared=placed.bytes)
    settings = Settings(device.cores, context, cache_type, placed.layers, placed.vision, _images(parts, context))
    return settings, used, _against(parts, used, device, context)


def _images(parts: Sequence[PlannedPart], context: int) -> int:
    decoder = next((part.decoder for part in parts if part.decoder), None)
    if decoder is None or not decoder.image_tokens:
        return 0
    return (context - min(_MOST_TEXT, context // _TEXT_SHARE)) // decoder.image_tokens


def _against(parts: Sequence[PlannedPart], used: MemoryUse, device: Device, context: int) -> str:
    """Why a device cannot hold it; empty where it can."""
    weights, given = sum(part.opened_bytes for part in parts), 1e9 * device.model_memory_gb
    if weights > given:
        return f"needs {_gb(weights)} GB, {device.title} gives a model {device.model_memory_gb:g} GB"
    if used.total > (left := SOLD_AS * 1e9 * device.memory_gb):
        beside = f" with a context of {context:,} tokens" if context else ""
        return f"takes {_gb(used.total)} GB{beside}, {device.title} leaves {_gb(left)} GB to programs"
    return ""


def _proven(parts: Sequence[PlannedPart]) -> Loss | None:
    """What the proof of its main part found: the divergence of a decoder, or the cosine of an encoder."""
    proven = {part.kind: part.loss["mean"] for part in parts if part.loss and "mean" in part.loss}
    if "decoder" in proven:
        return Loss({"kl": proven["decoder"]}, "its proof")
    return Loss({"cosine": min(proven.values())}, "its proof") if len(proven) == len(parts) else None


# ---------------------------------------------------------------- the choice


def _best(model: PlannedModel, able: Sequence[Row], goal: Goal | None) -> tuple[Row, str]:
    fitting = f"of the {len(able)} that fit" if len(able) > 1 else "the only one that fits"
    if goal == "smallest":
        return min(able, key=lambda one: one.bytes), f"the smallest {fitting}" if len(able) > 1 else fitting
    if goal == "most-faithful":
        best = min(able, key=_faithfulness)
        return best, f"the most faithful {fitting}, {_by(best)}" if len(able) > 1 else fitting
    timed = {one.variant: seconds for one in able if (seconds := one.times.answer_s()) is not None}
    if len(timed) < len(able):
        usual = next((one for one in able if one.variant == model.default), min(able, key=lambda one: one.bytes))
        said = "the recipe's default, which fits" if usual.variant == model.default else f"the smallest {fitting}"
        return usual, f"{said}; its times are not known on this device"
    fastest = min(able, key=lambda one: timed[one.variant])
    waits = _waits(timed[fastest.variant], fastest)
    if goal == "fastest":
        return fastest, f"the fastest {fitting}: {waits}" if len(able) > 1 else fitting
    near = [one for one in able if timed[one.variant] <= _SLOWER * timed[fastest.variant]]
    best = min(near, key=_faithfulness)
    if best is fastest or len(near) == 1:
        return best, f"{fitting}: {waits}" if len(able) == 1 else f"the fastest, and the most faithful near it: {waits}"
    return best, (
        f"the most faithful, {_by(best)}, of the {len(near)} that take at most half as long again as the fastest "
        f"({fastest.variant}, {waits}): {_waits(timed[best.variant], best)}"
    )


def _faithfulness(one: Row) -> tuple[float, float, int]:
    """Least first: what the limits of its levels allow them to lose, its main part's before all; then more bytes."""
    main, *_ = limits = [limits_of(level) for level in one.parts.values()]
    return main.loss_kl, sum(limit.loss_error for limit in limits), -one.bytes


def _by(one: Row) -> str:
    return "by what a proof lets its levels lose"


def _waits(seconds: float, one: Row) -> str:
    what = "a question about an image with 100 tokens of answer" if one.times.first_token_s else "an image"
    return f"{what} in {seconds:.3g} s"


def _reasons(best: Row, device: Device) -> Iterator[str]:
    settings, used = best.settings, best.memory
    left = SOLD_AS * device.memory_gb
    yield f"it takes {_gb(used.total)} of the {left:.3g} GB that {device.name} leaves to programs"
    if settings.context:
        shorter = f", and not {device.context:,}," if settings.context < device.context else ""
        rounded = "8 bits (q8_0), for in 16 they find no room" if settings.cache_type == "q8_0" else "f16"
        images = f", room for {settings.images} images" if settings.images else ""
        yield (
            f"a context of {settings.context:,} tokens{shorter} takes {_gb(used.cache)} GB with keys and values in "
            f"{rounded}{images}"
        )
    if device.gpu_memory_gb:
        parts = [f"{settings.gpu_layers} layers", *(["the vision part"] if settings.gpu_vision else [])]
        yield f"{' and '.join(parts)} go to its GPU of {device.gpu_memory_gb:g} GB"


def _notes(device: Device, rows: Sequence[Row]) -> Iterator[str]:
    if not device.gflops:
        yield f"{device.name} states no gflops, so nothing says how long prompts and images take"
    if device.disk_gb_s is None:
        yield f"{device.name} states no disk_gb_s, so nothing says how long a cold load takes"
    if any(one.settings.gpu_layers or one.settings.gpu_vision for one in rows):
        yield "times of what runs on a GPU are not predicted"


def _missing(rows: Sequence[Row], device: Device) -> str:
    """What the least demanding variant lacks."""
    least = min(rows, key=lambda one: one.memory.total)
    return f"nothing fits {device.name}: {least.variant}, which takes the least, {least.against}"


def nothing_fits(made: Plan) -> UsageError:
    """The error for a plan without a recommendation."""
    return UsageError(
        f"{made.model.title}: {made.missing}",
        allowed="a device with more memory, or a smaller model",
        remedy=f"edgekit plan {made.model.name} --device NAME",
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"
