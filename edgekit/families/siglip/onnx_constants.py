"""Where transformers' configuration of a SigLIP tower stands in its ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.formats.onnx import names
from edgekit.formats.onnx.constants import Constant
from edgekit.formats.onnx.expressions import Expression
from edgekit.formats.onnx.graph import CONTRIB
from edgekit.formats.onnx.positional import Statement

APPROXIMATIONS = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}  # transformers' name -> ONNX's


def image_encoder(hub: Any) -> Sequence[Constant]:
    """The vision tower with its pooling head, of a SiglipConfig or of the tower's own."""
    vision = vision_of(hub)
    width = vision.hidden_size
    return (
        *tower(vision),
        *patches(vision),
        *_unit_length(),
        Constant("shape of patches", "Reshape", 1, [[0, 0, patch_count(vision)]], "Conv"),
        Constant("order of channels", "Transpose", "perm", [(0, 2, 1)]),
        Constant("one probe", "Concat", 1, [[1, 1]], "Shape"),
        Constant("sides of the probe", "Concat", "axis", [0]),
        Constant("images", "Shape", "start", [0]),
        Constant("images", "Shape", "end", [1]),
        Constant("query, key and value", "Slice", 1, [[0], [width], [2 * width]]),
        Constant("query, key and value", "Slice", 2, [[width], [2 * width], [3 * width]]),
        Constant("query, key and value", "Slice", 3, [[-1]]),
        Constant("the probe's place", "Squeeze", 1, [[1]]),
    )


def vision_of(hub: Any) -> Any:
    """The vision tower's configuration: a part of the model's, or its own."""
    return getattr(hub, "vision_config", hub)


def text_encoder(hub: Any) -> Sequence[Constant]:
    """The text tower, of a SiglipConfig: its last position is what it says of a text."""
    text = hub.text_config
    return (
        *tower(text),
        *_unit_length(),
        Constant("rows of a table, positions", "Gather", "axis", [0, 1]),
        Constant("the pooled position", "Gather", 1, [text.max_position_embeddings - 1]),
    )


def image_layers(hub: Any) -> Sequence[str]:
    """Of a configuration with a vision tower, or of the tower's own: each layer's kind."""
    return ["layer"] * int(vision_of(hub).num_hidden_layers)


def text_layers(hub: Any) -> Sequence[str]:
    """Of a SiglipConfig: each layer's kind."""
    return ["layer"] * int(hub.text_config.num_hidden_layers)


def image_positions(state: Statement, hub: Any) -> Mapping[str, Expression]:
    """What the image encoder makes of lengths: every image gets the probe."""
    images = state.op("Shape", state.numbers("LayerNormalization"), start=0, end=1)
    return {"the probe's shape": state.op("Concat", images, state.whole([1, 1]), axis=0)}


def text_positions(state: Statement, hub: Any) -> Mapping[str, Expression]:
    """What the text encoder makes of ids and lengths."""
    return {"the tokens": state.input(names.IDS)}


def tower(config: Any) -> Sequence[Constant]:
    """What image and text towers share."""
    return (
        Constant("layer_norm_eps", "LayerNormalization", "epsilon", [config.layer_norm_eps]),
        Constant("hidden_act", "Gelu", "approximate", [APPROXIMATIONS.get(config.hidden_act)]),
        Constant("num_attention_heads", f"{CONTRIB}.MultiHeadAttention", "num_heads", [config.num_attention_heads]),
    )


def patches(vision: Any) -> Sequence[Constant]:
    """How an image is cut up."""
    side = (vision.patch_size,) * 2
    return tuple(Constant("patch_size", "Conv", name, [side]) for name in ("kernel_shape", "strides"))


def patch_count(vision: Any) -> int:
    """Patches of one image."""
    return int(vision.image_size // vision.patch_size) ** 2


def _unit_length() -> Sequence[Constant]:
    """SigLIP's embeddings have a length of one."""
    return Constant("length", "LpNormalization", "p", [2]), Constant("length", "LpNormalization", "axis", [-1])
