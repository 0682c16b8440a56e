"""What goes into Gemma 3's ONNX graphs and comes out, by transformers' configuration: exports/README.md's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.formats.onnx import names
from edgekit.formats.onnx.form import Interface, Value

_CAPACITIES = {"sliding_attention": names.LOCAL_CAPACITY, "full_attention": names.GLOBAL_CAPACITY}


def decoder(hub: Any) -> Mapping[str, Interface]:
    """The decoder and its token embedding, of a Gemma3Config or a Gemma3TextConfig."""
    text = hub.get_text_config()
    caches: dict[str, Value] = {
        f"{number}.{part}": ("FLOAT", (1, text.num_key_value_heads, _CAPACITIES[kind], text.head_dim))
        for number, kind in enumerate(text.layer_types)
        for part in ("key", "value")
    }
    given: dict[str, Value] = {
        names.EMBEDS: ("FLOAT", (1, "length", text.hidden_size)),
        names.IMAGES: ("INT64", (1, "length")),
        names.POSITIONS: ("INT64", (1, "length")),
        names.WANTED: ("INT64", ("wanted",)),
        **{f"{names.PAST}.{name}": value for name, value in caches.items()},
    }
    present = {f"{names.PRESENT}.{name}": value for name, value in caches.items()}
    embedded: Value = ("FLOAT", ("batch", "length", text.hidden_size))
    return {
        "decoder_model_merged": Interface(given, {**present, names.LOGITS: ("FLOAT", ("wanted", text.vocab_size))}),
        names.EMBEDDING_STEM: Interface({names.IDS: ("INT64", ("batch", "length"))}, {names.EMBEDS: embedded}),
    }


def vision(hub: Any) -> Mapping[str, Interface]:
    """The vision tower and the projector, of a Gemma3Config."""
    size, width = hub.vision_config.image_size, hub.get_text_config().hidden_size
    pixels: Value = ("FLOAT", ("images", 3, size, size))
    features: Value = ("FLOAT", ("images", hub.mm_tokens_per_image, width))
    return {"vision_encoder": Interface({names.PIXELS: pixels}, {"image_features": features})}
