"""One variant on a device as a row: its settings, its memory, its times, and why it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from edgekit.machine.device import SOLD_AS, Device
from edgekit.planning import offload
from edgekit.planning.kernels import CacheType
from edgekit.planning.memory import MemoryUse, memory_use, placement
from edgekit.planning.parts import PlannedPart
from edgekit.planning.times import Times, times

Lacking = Literal["", "weights", "memory", "shape"]
SHAPED = "a model whose files state its shape, as those that edgekit exports do"
LEAST_CONTEXT = 1024  # tokens; a shorter one is of no use with an image and an answer
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
        gpu_layers: of its decoder that a GPU runs, as the library counts them; `gpu_vision`, whether its encoder, too;
            `gpu_whole`, whether that is all of it.
        images: that a context holds, beside a fourth of it, or 1,024 tokens, for words.
    """

    threads: int
    context: int = 0
    cache_type: CacheType = "f16"
    gpu_layers: int = 0
    gpu_vision: bool = False
    gpu_whole: bool = False
    images: int = 0


@dataclass(frozen=True)
class Row:
    """One variant on a device.

    Attributes:
        parts: role -> level.
        bytes: of its files.
        against: why it does not fit; empty where it does.
        lacks: the same in a word: its `weights` are more than a model may take, or with all else main `memory`;
            without a `shape` nobody can say.
    """

    variant: str
    parts: Mapping[str, str]
    bytes: int
    settings: Settings
    memory: MemoryUse
    times: Times
    loss: Loss | None
    against: str = ""
    lacks: Lacking = ""

    @property
    def fits(self) -> bool:
        """Whether the device can run it."""
        return not self.lacks


def row(
    name: str, parts: Sequence[PlannedPart], device: Device, context: int | None = None, loss: Loss | None = None
) -> Row:
    """One variant on a device, with the longest context up to the wanted one, and its keys and values in half
    precision, where memory allows both; in 8 bits before the context is halved.

    Args:
        context: that must be; the device's, or as much of it as fits, for None.
    """
    tried = [_try(parts, device, tokens, kind) for tokens, kind in _contexts(parts, device, context)]
    taken = next((one for one in tried if not one.lacks), tried[-1])
    size = sum(part.bytes for part in parts)
    levels = {part.role: part.level for part in parts}
    took = times(parts, device, taken.placed)
    lost = loss or _proven(parts)
    return Row(name, levels, size, taken.settings, taken.used, took, lost, taken.against, taken.lacks)


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


class _Tried(NamedTuple):
    """One way of running a variant, and why it does not fit."""

    settings: Settings
    used: MemoryUse
    placed: offload.Plan
    lacks: Lacking
    against: str


def _try(parts: Sequence[PlannedPart], device: Device, context: int, cache_type: CacheType) -> _Tried:
    placed = placement(parts, context, cache_type, int(1e9 * device.gpu_memory_gb))
    used = memory_use(parts, context, cache_type, placed)
    if device.unified_memory:
        used = replace(used, shared=placed.bytes)
    settings = Settings(
        device.cores,
        context,
        cache_type,
        placed.layers,
        placed.vision,
        all(_on_gpu(part, placed) for part in parts),
        _images(parts, context),
    )
    return _Tried(settings, used, placed, *_against(parts, used, device, context))


def _on_gpu(part: PlannedPart, placed: offload.Plan) -> bool:
    """Whether a GPU runs all of a part; the output layer counts as one."""
    if not part.library.offloads:
        return False
    return placed.layers > len(part.layer_bytes) if part.kind == "decoder" else placed.vision


def _images(parts: Sequence[PlannedPart], context: int) -> int:
    decoder = next((part.decoder for part in parts if part.decoder), None)
    if decoder is None or not decoder.image_tokens:
        return 0
    return (context - min(_MOST_TEXT, context // _TEXT_SHARE)) // decoder.image_tokens


def _against(parts: Sequence[PlannedPart], used: MemoryUse, device: Device, context: int) -> tuple[Lacking, str]:
    """Why a device cannot hold it, in a word and in a sentence; both empty where it can."""
    weights, given = sum(part.opened_bytes for part in parts), 1e9 * device.model_memory_gb
    if weights > given:
        return "weights", f"needs {gigabytes(weights)} GB, {device.title} gives a model {device.model_memory_gb:g} GB"
    if used.total > (left := SOLD_AS * 1e9 * device.memory_gb):
        takes = f"{gigabytes(used.total)} GB{f' with a context of {context:,} tokens' if context else ''}"
        return "memory", f"takes {takes}, {device.title} leaves {gigabytes(left)} GB to programs"
    if any(part.shape is None for part in parts):
        return "shape", "is of a shape that no file here states, so nothing says what running it takes"
    return "", ""


def _proven(parts: Sequence[PlannedPart]) -> Loss | None:
    """What the proof of its main part found: the divergence of a decoder, or the cosine of an encoder."""
    proven = {part.kind: part.loss["mean"] for part in parts if part.loss and "mean" in part.loss}
    if "decoder" in proven:
        return Loss({"kl": proven["decoder"]}, "its proof")
    return Loss({"cosine": min(proven.values())}, "its proof") if len(proven) == len(parts) else None


def gigabytes(count: float) -> str:
    """Bytes in GB, for people."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"
