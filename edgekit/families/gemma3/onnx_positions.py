"""What Gemma 3's decoder computes of positions, images and lengths: masks, rotations and places in caches.

It says a second time, and apart from the graph's builder, what these must be at every position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.formats.onnx import names
from edgekit.formats.onnx.expressions import Expression
from edgekit.formats.onnx.positional import Statement

HIDDEN = -1e30  # beside any score; transformers takes the least number of its type


def embedding(state: Statement, hub: Any) -> Mapping[str, Expression]:
    """Of the token embedding."""
    return {"the tokens": state.input(names.IDS)}


def decoder(state: Statement, hub: Any) -> Mapping[str, Expression]:
    """Of a Gemma3Config or a Gemma3TextConfig."""
    text, stated = hub.get_text_config(), {"the wanted positions": state.input(names.WANTED)}
    rotary = frequencies(text)
    given = (state.input(name) for name in (names.POSITIONS, names.IMAGES))
    positions, images = (state.op("Reshape", value, state.whole([-1])) for value in given)
    for kind in rotary:
        cache = state.input(f"{names.PAST}.{text.layer_types.index(kind)}.key")
        capacity = state.op("Shape", cache, start=2, end=3)
        window = text.sliding_window if kind == "sliding_attention" else None
        of_kind = {
            "mask": _mask(state, text, (positions, images, capacity), window),
            "places in the cache": _places(state, text, state.op("Mod", positions, capacity)),
            **_rotations(state, text, positions, rotary[kind]),
        }
        stated |= {f"{name} of {kind}": value for name, value in of_kind.items()}
    return stated


def frequencies(text: Any) -> dict[str, Any]:
    """Each kind of layers -> radians per position, by transformers' own module."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    module = Gemma3RotaryEmbedding(text)
    return {kind: getattr(module, f"{kind}_inv_freq").numpy() for kind in dict.fromkeys(text.layer_types)}


def _mask(
    state: Statement, text: Any, given: tuple[Expression, Expression, Expression], window: int | None
) -> Expression:
    """Slot s of a cache holds the last position that is s modulo its capacity; none, where that is negative."""
    (positions, images, capacity), op = given, state.op
    zero, one = state.whole(0), state.whole(1)
    first, last = (op("Gather", positions, state.whole(end)) for end in (0, -1))
    slots = op("Range", zero, op("Squeeze", capacity), one)
    held = op("Sub", last, op("Mod", op("Sub", last, slots), capacity))
    behind = op("Sub", _column(state, positions), held)
    mine = op("Unsqueeze", images, state.whole([1]))
    theirs = op("Gather", images, op("Max", op("Sub", held, first), state.whole([0])), axis=0)
    together = op("And", op("Equal", mine, theirs), op("Greater", mine, zero))
    seen = op("And", op("Or", op("GreaterOrEqual", behind, zero), together), op("GreaterOrEqual", held, zero))
    if window is not None:
        seen = op("And", seen, op("Less", behind, state.whole(window)))
    shared = text.num_attention_heads // text.num_key_value_heads
    return op("Tile", op("Where", seen, state.real(0), state.real(HIDDEN)), state.whole([shared, 1]))


def _places(state: Statement, text: Any, slots: Expression) -> Expression:
    """[1, heads, length, 3]: batch, head and slot of each new key and value."""
    heads = text.num_key_value_heads
    shape = state.op("Concat", state.whole([1, heads]), state.op("Shape", slots), state.whole([1]), axis=0)
    parts = state.whole(0), state.whole(np.arange(heads).reshape(1, heads, 1, 1)), _column(state, slots)
    return state.op("Concat", *(state.op("Expand", part, shape) for part in parts), axis=-1)


def _rotations(state: Statement, text: Any, positions: Expression, radians: Any) -> dict[str, Expression]:
    """Cosines and sines [length, 1, width]; queries are scaled as they are rotated."""
    op, half = state.op, text.head_dim // 2
    angles = op("Mul", op("Cast", _column(state, positions), to=1), state.real(radians))
    angles = op("Unsqueeze", op("Concat", angles, angles, axis=-1), state.whole([1]))
    cosine = op("Cos", angles)
    sine = op("Mul", op("Sin", angles), state.real(np.repeat([-1.0, 1.0], half)))
    scale = state.real(text.query_pre_attn_scalar**-0.5)
    return {
        "cosines of keys": cosine,
        "sines of keys": sine,
        "cosines of queries": op("Mul", cosine, scale),
        "sines of queries": op("Mul", sine, scale),
    }


def _column(state: Statement, values: Expression) -> Expression:
    return state.op("Reshape", values, state.whole([-1, 1]))


DECODER = {"decoder_model_merged": decoder, names.EMBEDDING_STEM: embedding}
