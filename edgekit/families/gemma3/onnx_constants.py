"""Where transformers' configuration of Gemma 3 stands in its ONNX graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.families.gemma3.onnx_positions import HIDDEN, frequencies
from edgekit.families.siglip.onnx_constants import APPROXIMATIONS, patch_count, patches, tower
from edgekit.formats.onnx.collapse import LINEAR
from edgekit.formats.onnx.constants import Constant


def decoder(hub: Any) -> Sequence[Constant]:
    """The decoder and its token embedding, of a Gemma3Config or a Gemma3TextConfig."""
    text = hub.get_text_config()
    return (
        Constant("embedding scale", "Mul", 1, [text.hidden_size**0.5], "Gather"),
        Constant("rows, positions", "Gather", "axis", [0, 1]),
        *_norm(text.rms_norm_eps),
        Constant("hidden_activation", "Gelu", "approximate", [APPROXIMATIONS.get(text.hidden_activation)]),
        *_rotation(text),
        *_mask(text),
        *_heads(text),
    )


def decoder_layers(hub: Any) -> Sequence[str]:
    """Each layer's kind."""
    return list(hub.get_text_config().layer_types)


def vision(hub: Any) -> Sequence[Constant]:
    """The vision tower and the projector, of a Gemma3Config."""
    config, tokens = hub.vision_config, hub.mm_tokens_per_image
    side = config.image_size // config.patch_size
    kernel = (side // math.isqrt(tokens),) * 2
    return (
        *tower(config),
        *patches(config),
        *_norm(config.layer_norm_eps),
        Constant("shape of patches", "Reshape", 1, [[0, 0, patch_count(config)]], "Conv"),
        Constant("order of channels", "Transpose", "perm", [(0, 2, 1)]),
        Constant("square of patches", "Reshape", 1, [[0, 0, side, side]], "Transpose"),
        Constant("mm_tokens_per_image", "AveragePool", "kernel_shape", [kernel]),
        Constant("mm_tokens_per_image", "AveragePool", "strides", [kernel]),
        Constant("mm_tokens_per_image", "Reshape", 1, [[0, 0, tokens]], "AveragePool"),
    )


def _norm(epsilon: float) -> Sequence[Constant]:
    return (
        Constant("epsilon of norms", "Add", 1, [epsilon], "ReduceMean"),
        Constant("square", "Pow", 1, [2]),
        Constant("channels", "ReduceMean", 1, [[-1]]),
    )


def _rotation(text: Any) -> Sequence[Constant]:
    """Queries are scaled as they are rotated."""
    half = text.head_dim // 2
    scale = text.query_pre_attn_scalar**-0.5
    return (
        Constant("rotary frequencies", "Mul", 1, list(frequencies(text).values()), "Cast", tolerance=1e-6),
        Constant("type of positions", "Cast", "to", [1]),
        Constant("direction of rotation", "Mul", 1, [np.repeat([-1.0, 1.0], half)], "Sin"),
        Constant("query_pre_attn_scalar", "Mul", 1, [scale], "Cos"),
        Constant("query_pre_attn_scalar", "Mul", 1, [scale], "Mul"),
        Constant("halves that rotate", "Slice", 1, [[0], [half]]),
        Constant("halves that rotate", "Slice", 2, [[half], [2 * half]]),
        Constant("halves that rotate", "Slice", 3, [[-1]]),
    )


def _mask(text: Any) -> Sequence[Constant]:
    sliding = "sliding_attention" in text.layer_types
    return (
        *([Constant("sliding_window", "Less", 1, [text.sliding_window], "Sub")] if sliding else []),
        Constant("not later", "GreaterOrEqual", 1, [0], "Sub"),
        Constant("an image", "Greater", 1, [0], "Unsqueeze"),
        Constant("keys of this call", "Max", 1, [[0]], "Sub"),
        Constant("what is seen", "Where", 1, [0], "And"),
        Constant("what is not seen", "Where", 2, [HIDDEN], "And"),
        Constant("first and last position", "Gather", 1, [0, -1], "Reshape"),
        Constant("slots", "Range", 0, [0], "Squeeze"),
        Constant("slots", "Range", 2, [1], "Squeeze"),
        Constant("capacity", "Shape", "start", [2]),
        Constant("capacity", "Shape", "end", [3]),
        Constant("sides of masks and rotations", "Unsqueeze", 1, [[1]]),
        Constant("attention", "Softmax", "axis", [-1]),
    )


def _heads(text: Any) -> Sequence[Constant]:
    heads, shared, width = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    return (
        Constant("heads that share a key", "Tile", 1, [[heads // shared, 1]]),
        Constant("key/value heads", "Concat", 0, [[1, shared]], "Shape"),
        Constant("a slot's place", "Concat", 2, [[1]], "Shape"),
        Constant("sides that are joined", "Concat", "axis", [-1, 0]),
        Constant("key/value heads", "Expand", 0, [0, np.arange(shared).reshape(1, shared, 1, 1)], "Concat"),
        Constant("heads and their width", "Reshape", 1, [[0, 0, heads, width], [0, 0, shared, width]], LINEAR),
        Constant("mixed heads", "Reshape", 1, [[1, shared, -1, width], [0, 0, heads * width]], "Transpose"),
        Constant("queries by head", "Reshape", 1, [[1, heads, -1, width]], "MatMul"),
        Constant("columns", "Reshape", 1, [[-1, 1]], "Reshape"),
        Constant("columns", "Reshape", 1, [[-1, 1]], "Mod"),
        Constant("positions", "Reshape", 1, [[-1]], "input"),
        Constant("hidden_size", "Reshape", 1, [[-1, text.hidden_size]], "Gather"),
        Constant("order of heads and of keys", "Transpose", "perm", [(0, 2, 1, 3), (0, 1, 3, 2)]),
    )
