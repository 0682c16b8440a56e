"""What a variant takes of main memory, and of a GPU's, before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.families.shapes import DecoderShape
from edgekit.planning.caches import layer_bytes
from edgekit.planning.kernels import CacheType
from edgekit.planning.offload import RESERVE_BYTES, Plan, Sizes, decoder_compute, plan, vision_compute
from edgekit.planning.parts import PlannedPart

# Python, numpy, edgekit and a runtime, without a model: their own, and pages of their files; and what a tokenizer and a
# vocabulary take for each token.
LIBRARY_BYTES, LIBRARY_MAPPED_BYTES, TOKEN_BYTES = 70_000_000, 60_000_000, 800
NOT_PLACED = Plan(0, vision=False, bytes=0)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of main memory, once everything is loaded.

    Attributes:
        weights: of the decoder, or of encoders where there is none, as a library holds them.
        cache: keys and values of one context.
        compute: intermediate results.
        vision: the encoder of images before a decoder, with its intermediate results.
        library: Python, the runtimes, the tokenizer.
        mapped: of all that, what are pages of files, which the system can read again.
        laid_out: pages of the file beside them while weights are laid out anew, which are given back then.
        gpu: what lies in a GPU's memory, no part of the sums below.
        shared: what a GPU holds whose memory is a part of main memory.
    """

    weights: int = 0
    cache: int = 0
    compute: int = 0
    vision: int = 0
    library: int = 0
    mapped: int = 0
    laid_out: int = 0
    gpu: int = 0
    shared: int = 0

    @property
    def total(self) -> int:
        """All that stays."""
        return self.weights + self.cache + self.compute + self.vision + self.library + self.shared

    @property
    def own(self) -> int:
        """The process's own."""
        return self.total - self.mapped

    @property
    def peak(self) -> int:
        """The most that is resident at once."""
        return max(self.total, self.weights + self.laid_out + self.cache + self.library)


def memory_use(
    parts: Sequence[PlannedPart], context: int, cache_type: CacheType, on_gpu: Plan = NOT_PLACED
) -> MemoryUse:
    """What these parts take of main memory.

    Args:
        context: positions that a decoder's cache holds.
        on_gpu: what does not count, since it lies in a GPU's memory.
    """
    decoder = next((part for part in parts if part.kind == "decoder"), None)
    encoders = [part for part in parts if part is not decoder and not (on_gpu.vision and part.library.offloads)]
    encoded = sum(part.opened_bytes for part in encoders)
    # One is computed with at a time.
    activations = max((_activations(part) for part in encoders), default=0)
    rows = max((part.shape.vocabulary for part in parts if part.shape), default=0)
    library = LIBRARY_BYTES + LIBRARY_MAPPED_BYTES + TOKEN_BYTES * rows
    if decoder is None:
        return MemoryUse(encoded, compute=activations, library=library, mapped=LIBRARY_MAPPED_BYTES)
    weights, mapped, laid_out = _decoder_weights(decoder, on_gpu.layers)
    cache = compute = 0
    if shape := decoder.decoder:
        kept = cache_bytes(decoder, shape, context, cache_type)
        cache = sum(kept[: max(len(kept) + 1 - on_gpu.layers, 0)])
        compute = decoder_compute(decoder.library.batch(shape.image_tokens), 0, shape.wide, shape.hidden, 0)
    seen = encoded + activations
    return MemoryUse(weights, cache, compute, seen, library, mapped + LIBRARY_MAPPED_BYTES, laid_out, on_gpu.bytes)


def cache_bytes(part: PlannedPart, shape: DecoderShape, context: int, cache_type: CacheType) -> list[int]:
    """What each layer's keys and values take."""
    local = part.library.local(shape.window, shape.image_tokens)
    return layer_bytes(shape.global_layers, shape.key_values, part.library.caches[cache_type], local, context)


def placement(parts: Sequence[PlannedPart], context: int, cache_type: CacheType, gpu_bytes: int) -> Plan:
    """What goes to a GPU with so much memory: as a runtime decides it when it opens the files."""
    decoder = next((part for part in parts if part.decoder and part.library.offloads and part.layer_bytes), None)
    if decoder is None or decoder.decoder is None or not gpu_bytes:
        return NOT_PLACED
    shape = decoder.decoder
    caches = cache_bytes(decoder, shape, context, cache_type)
    layers = tuple(weights + held for weights, held in zip(decoder.layer_bytes, caches, strict=True))
    batch = decoder.library.batch(shape.image_tokens)
    head = decoder.stored_bytes(decoder.head_type, shape.head)
    output = head + decoder_compute(batch, shape.vocabulary, shape.wide, shape.hidden, context)
    vision = sum(part.bytes + _activations(part) for part in parts if part.encoder and part.library.offloads)
    return plan(gpu_bytes - RESERVE_BYTES, Sizes(output, layers, vision))


def _decoder_weights(part: PlannedPart, gpu_layers: int) -> tuple[int, int, int]:
    """What a decoder's weights take in main memory, what of that is mapped, and what is laid out anew."""
    if not part.library.maps:  # but for the embedding, whose rows are read where they lie in the file
        table = part.stored_bytes(part.head_type, part.decoder.head) if part.decoder else 0
        return part.opened_bytes + table, table, 0
    left, share = part.bytes, 1.0
    if gpu_layers:
        left = sum(part.layer_bytes[: len(part.layer_bytes) + 1 - gpu_layers])
        share = left / max(sum(part.layer_bytes), 1)
    again = min(left, round(laid_out_bytes(part) * share))
    return left, left - again, again


def laid_out_bytes(part: PlannedPart) -> int:
    """Weights of a decoder that its library lays out anew, whose pages of the file are not needed then."""
    kinds = {name: count for name, count in part.multiplied.items() if part.library.kernel(name).laid_out}
    return sum(part.stored_bytes(name, count) for name, count in kinds.items())


def _activations(part: PlannedPart) -> int:
    """Intermediate results of one item."""
    if part.encoder is None:
        return 0
    largest = max(part.multiplied, key=lambda name: part.multiplied[name])
    factors = part.library.activations
    compute = vision_compute(part.encoder.positions, part.encoder.hidden, part.encoder.wide)
    return round(factors.get(largest, min(factors.values())) * compute)
