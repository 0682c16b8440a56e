"""What a model's parts would take of a GPU's memory, read from files' headers before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.formats.gguf.header import GgufHeader
from edgekit.planning.offload import decoder_compute, vision_compute
from edgekit.runtime.llama.cache_form import CacheForm, layer_cache_bytes

_MOST_LAYERS = 1024


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
    return sum(tensor.bytes for tensor in header.tensors.values()) + vision_compute(patches, hidden, wide)


def _decoder_compute(header: GgufHeader, batch: int, context: int, sequences: int) -> int:
    """See `edgekit.planning.offload.decoder_compute`."""
    prefix = header.text("general.architecture", "")
    wide, hidden = (header.integer(f"{prefix}.{name}", 0) for name in ("feed_forward_length", "embedding_length"))
    embedding = header.tensors.get("token_embd.weight")
    vocabulary = embedding.shape[0] if embedding else 0
    return decoder_compute(batch, vocabulary, wide, hidden, context * sequences)


def _prefixed(header: GgufHeader, prefix: str) -> int:
    return sum(_bytes_of(header, prefix))


def _bytes_of(header: GgufHeader, prefix: str) -> Iterator[int]:
    return (tensor.bytes for name, tensor in header.tensors.items() if name.startswith(prefix))
