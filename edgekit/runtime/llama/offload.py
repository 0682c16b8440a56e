"""What of a model goes to a GPU: as much as a budget of video memory holds, in a fixed order.

The library takes the output layer first, then layers from the last to the first, and a layer's keys and values lie
where its weights do. All sizes are read from files' headers, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from edgekit.formats.gguf.header import GgufHeader
from edgekit.runtime.llama.cache_form import CacheForm, layer_cache_bytes

_MOST_LAYERS = 1024

# What a driver takes beside our buffers (compiled kernels, staging), and others at the same time.
RESERVE_BYTES = 300_000_000


@dataclass(frozen=True)
class Sizes:
    """What the parts of a model take of video memory, in bytes.

    Attributes:
        output: the last matrix, and the logits of a batch; with what computing takes at all.
        layers: each layer's weights with its keys and values, from the first to the last.
        vision: the vision part with its intermediate results; 0 without one.
    """

    output: int
    layers: tuple[int, ...]
    vision: int = 0

    @property
    def all(self) -> int:
        """What everything takes."""
        return self.output + sum(self.layers) + self.vision


@dataclass(frozen=True)
class Plan:
    """What goes to the GPU.

    Attributes:
        layers: as the library counts them: the output is the first, then layers from the last one; 0 for none.
        vision: whether the vision part does, which goes whole or not at all.
        bytes: of video memory that this takes.
    """

    layers: int
    vision: bool
    bytes: int


def plan(budget: int, sizes: Sizes) -> Plan:
    """What a budget of video memory holds, never more.

    The vision part goes first, if all of it fits: an image is thousands of positions, and what the CPU takes longest
    for. Then the output layer, then as many layers as fit, from the last one, each with its keys and values, which are
    of no use away from it. A larger budget never holds less: neither fewer bytes, nor fewer layers beside the same
    vision part, nor no vision part where a smaller one held it.

    Args:
        budget: bytes; 0 or less holds nothing.
    """
    vision = 0 < sizes.vision <= budget
    spent = sizes.vision if vision else 0
    steps = [total for total in accumulate([sizes.output, *reversed(sizes.layers)]) if total <= budget - spent]
    return Plan(len(steps), vision, spent + (steps[-1] if steps else 0))


def decoder_sizes(header: GgufHeader, batch: int, context: int, cache: CacheForm) -> tuple[int, tuple[int, ...]]:
    """What a decoder's output and each of its layers take: `Sizes.output`, `Sizes.layers`.

    Args:
        batch: positions that are computed at once.
        context: positions that the cache holds, of each sequence.
    """
    layers = min(header.integer(f"{header.text('general.architecture', '')}.block_count", 0), _MOST_LAYERS)
    caches = layer_cache_bytes(header, batch, context, cache)
    weights = (_prefixed(header, f"blk.{layer}.") for layer in range(layers))
    each = tuple(weight + held for weight, held in zip(weights, caches, strict=True))
    tied = 0 if "output.weight" in header.tensors else _prefixed(header, "token_embd.")  # a second copy on the GPU
    return _prefixed(header, "output") + tied + _decoder_compute(header, batch, context, cache.sequences), each


def vision_bytes(header: GgufHeader) -> int:
    """What a vision part and its intermediate results take."""
    prefix = "clip.vision"
    patch = header.integer(f"{prefix}.patch_size", 0) or 1
    patches = (header.integer(f"{prefix}.image_size", 0) // patch) ** 2
    hidden, wide = (header.integer(f"{prefix}.{name}", 0) for name in ("embedding_length", "feed_forward_length"))
    compute = 4 * patches * (6 * hidden + 3 * wide)  # attention is fused: scores of all patches lie nowhere
    return sum(tensor.bytes for tensor in header.tensors.values()) + compute


def _decoder_compute(header: GgufHeader, batch: int, context: int, sequences: int) -> int:
    """Intermediate results of a batch, in single precision: logits, both halves of a gated layer, masks."""
    prefix = header.text("general.architecture", "")
    wide, hidden = (header.integer(f"{prefix}.{name}", 0) for name in ("feed_forward_length", "embedding_length"))
    embedding = header.tensors.get("token_embd.weight")
    vocabulary = embedding.shape[0] if embedding else 0
    return 4 * batch * (vocabulary + 3 * wide + 8 * hidden + 2 * context * sequences)


def _prefixed(header: GgufHeader, prefix: str) -> int:
    return sum(_bytes_of(header, prefix))


def _bytes_of(header: GgufHeader, prefix: str) -> Iterator[int]:
    return (tensor.bytes for name, tensor in header.tensors.items() if name.startswith(prefix))
