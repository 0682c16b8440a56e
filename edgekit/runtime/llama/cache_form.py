"""How llama.cpp holds keys and values, and what they take."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.families.gemma3.layers import is_global
from edgekit.formats.gguf.header import GgufHeader
from edgekit.planning.caches import layer_bytes


@dataclass(frozen=True)
class CacheForm:
    """How keys and values are held.

    Attributes:
        sequences: how many, each apart from the others.
        type: what they are rounded to, one of `LlamaDecoder.cache_types`.
        exact: keep them in single precision, and multiply by them so, whatever `type` is.
    """

    sequences: int = 1
    type: str = "f16"
    exact: bool = False

    @property
    def held_as(self) -> str:
        """The type that they have."""
        return "f32" if self.exact else self.type


USUAL_CACHE = CacheForm()


def layer_cache_bytes(header: GgufHeader, batch: int, context: int, form: CacheForm) -> list[int]:
    """What keys and values of contexts take in each layer; nothing where the header does not say.

    Args:
        batch: positions that are computed at once, which layers with a window hold on top of it.
        context: positions of each sequence.
    """
    prefix = header.text("general.architecture", "")
    window = header.integer(f"{prefix}.attention.sliding_window", 0)
    local = min(context, window + batch) if window else context
    heads, *widths = (
        header.integer(f"{prefix}.attention.{name}", 0) for name in ("head_count_kv", "key_length", "value_length")
    )
    layers = range(min(header.integer(f"{prefix}.block_count", 0), 1024))  # what else it says is found out later
    numbers = form.sequences * heads * sum(widths)
    return layer_bytes(list(map(is_global, layers)), numbers, form.held_as, local, context)
