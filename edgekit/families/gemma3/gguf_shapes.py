"""What Gemma 3's two GGUF files cost by, as their checked headers say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.families.gemma3.gguf_schema import head_width
from edgekit.families.gemma3.layers import is_global
from edgekit.families.shapes import DecoderShape, EncoderShape
from edgekit.formats.gguf.header import GgufHeader


def decoder_shape(header: GgufHeader, settings: Mapping[str, Any]) -> DecoderShape:
    """The language model; how many positions an image takes, its projector's file alone says, and so the settings."""
    heads = header.integer("gemma3.attention.head_count")
    width = head_width(header)
    values = header.integer("gemma3.attention.value_length", width)
    vocabulary, hidden = header.tensors["token_embd.weight"].shape
    return DecoderShape(
        global_layers=tuple(map(is_global, range(header.integer("gemma3.block_count")))),
        hidden=hidden,
        wide=header.integer("gemma3.feed_forward_length"),
        key_values=header.integer("gemma3.attention.head_count_kv", heads) * (width + values),
        window=header.integer("gemma3.attention.sliding_window"),
        context=header.integer("gemma3.context_length"),
        vocabulary=vocabulary,
        image_tokens=settings.get("image_tokens") or 0,
    )


def projector_shape(header: GgufHeader, settings: Mapping[str, Any]) -> EncoderShape:
    """The vision tower, and the matrix that projects what is pooled of its patches."""
    hidden, wide = (header.integer(f"clip.vision.{key}_length") for key in ("embedding", "feed_forward"))
    patches = (header.integer("clip.vision.image_size") // header.integer("clip.vision.patch_size")) ** 2
    layers, projected = (header.integer(f"clip.vision.{key}") for key in ("block_count", "projection_dim"))
    return EncoderShape(layers, hidden, wide, patches, patches * hidden, once=hidden * projected)
