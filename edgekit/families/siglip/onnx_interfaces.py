"""What goes into SigLIP's ONNX graphs and comes out, by transformers' configuration: exports/README.md's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.families.siglip.onnx_constants import patch_count, vision_of
from edgekit.formats.onnx import names
from edgekit.formats.onnx.form import Interface, Value


def image_encoder(hub: Any) -> Mapping[str, Interface]:
    """Of a SiglipConfig, or of the vision tower's own."""
    vision = vision_of(hub)
    pixels: Value = ("FLOAT", ("batch", 3, vision.image_size, vision.image_size))
    outputs = _outputs("image_embeds", (patch_count(vision), vision.hidden_size), vision.hidden_size)
    return {"vision_model": Interface({names.PIXELS: pixels}, outputs)}


def text_encoder(hub: Any) -> Mapping[str, Interface]:
    """Of a SiglipConfig."""
    text = hub.text_config
    length = text.max_position_embeddings
    outputs = _outputs("text_embeds", (length, text.hidden_size), text.projection_size)
    return {"text_model": Interface({names.IDS: ("INT64", ("batch", length))}, outputs)}


def _outputs(embedding: str, hidden: tuple[int, int], width: int) -> Mapping[str, Value]:
    return {
        "last_hidden_state": ("FLOAT", ("batch", *hidden)),
        "pooler_output": ("FLOAT", ("batch", width)),
        embedding: ("FLOAT", ("batch", width)),
    }
