"""Gemma 3's decoder as ONNX graphs: the token embedding, and the layers with their key/value cache.

Both are standard ONNX except for matrices in blocks. The decoder's interface:

| input | | |
|---|---|---|
| `inputs_embeds` | float32 [1, length, hidden] | scaled token embeddings, or an image's features as they are |
| `image_index` | int64 [1, length] | 0 for text, k for the tokens of the k-th image of this call |
| `position_ids` | int64 [1, length] | consecutive, from the number of tokens decoded so far |
| `logits_positions` | int64 [wanted] | rows of this call whose logits are wanted |
| `past_key_values.{layer}.key`, `.value` | float32 [1, heads, capacity, head] | zeros before the first call |

and `logits` float32 [wanted, vocabulary] and `present.{layer}.key`, `.value`, of their pasts' shapes. A cache is a
ring: position p lies in slot p modulo its capacity. So it needs room for what its layers may still attend to: the
context in global layers, window - 1 + length in local ones. It is written in place where a runtime gives `past` and
`present` the same memory, and copied where not. The tokens of one image must come in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.families.gemma3.layers import is_global
from edgekit.families.gemma3.tensors import DECODER_PREFIX, EMBEDDING
from edgekit.formats.onnx import names
from edgekit.formats.onnx.graph import Graph

_HIDDEN = -1e30  # finite: a row that sees nothing must not become NaN
LOCAL, GLOBAL = "local", "global"


@dataclass(frozen=True)
class _Kind:
    """What all layers of one kind share in a call: masks, rotations, and where new keys and values are written.

    Attributes:
        mask: [heads that share a key * length, capacity] float32, added to scores.
        query, key: cosine and sine that rotate queries or keys, each [length, 1, head_dim] float32. Those of queries
            are scaled as scores are, those of the first half's sine negated: so nothing in a layer needs to be.
        indices: [1, heads, length, 3] int64: batch, head and slot of each new vector.
    """

    name: str
    mask: str
    query: tuple[str, str]
    key: tuple[str, str]
    indices: str


def embed_tokens(graph: Graph, config: MedGemmaConfig) -> None:
    """`input_ids` -> `inputs_embeds`."""
    text = config.text_config
    ids = graph.input(names.IDS, ["batch", "length"], "INT64")
    scaled = graph.op("Mul", graph.rows(ids, EMBEDDING), graph.constant(embedding_scale(text)))
    graph.output(scaled, names.EMBEDS, ["batch", "length", text.hidden_size])


def decoder(graph: Graph, config: MedGemmaConfig) -> None:
    """`inputs_embeds` -> `logits`; the module says the rest."""
    text = config.text_config
    hidden = graph.input(names.EMBEDS, [1, "length", text.hidden_size])
    images = graph.input(names.IMAGES, [1, "length"], "INT64")
    positions = graph.input(names.POSITIONS, [1, "length"], "INT64")
    wanted = graph.input(names.WANTED, ["wanted"], "INT64")
    flat = [graph.reshape(value, [-1]) for value in (positions, images)]
    kinds: dict[str, _Kind] = {}
    for number in range(text.num_hidden_layers):
        name = kind_of(number)
        caches = [_cache(graph, text, number, name, part) for part in ("key", "value")]
        if name not in kinds:
            kinds[name] = _kind(graph, text, name, caches[0], *flat)
        hidden = _layer(graph, text, f"{DECODER_PREFIX}layers.{number}.", hidden, kinds[name], number, caches)
    rows = graph.reshape(graph.op("Gather", hidden, wanted, axis=1), [-1, text.hidden_size])
    rows = rms_norm(graph, rows, f"{DECODER_PREFIX}norm.weight", text.rms_norm_eps)
    graph.output(graph.by_rows(rows, EMBEDDING), names.LOGITS, ["wanted", text.vocab_size])


def embedding_scale(text: GemmaTextConfig) -> float:
    """What token embeddings are multiplied by; image features are not."""
    return math.sqrt(text.hidden_size)


def kind_of(layer: int) -> str:
    """Which of the two kinds of attention a layer has."""
    return GLOBAL if is_global(layer) else LOCAL


def window_of(text: GemmaTextConfig, kind: str) -> int | None:
    """How far back a layer sees, its own position included; None for all the way."""
    return int(text.sliding_window) if kind == LOCAL else None


def frequencies(text: GemmaTextConfig, kind: str) -> NDArray[np.float32]:
    """Radians per position [head_dim / 2]: each kind has a base of its own, and only global layers are stretched."""
    base, factor = (text.rope_local_base_freq, 1.0) if kind == LOCAL else (text.rope_theta, text.rope_factor)
    exponents = np.arange(0, text.head_dim, 2, dtype=np.float32) / np.float32(text.head_dim)
    return np.asarray(1 / np.power(np.float32(base), exponents) / np.float32(factor), np.float32)


def same_image(graph: Graph, images: str, offsets: str) -> str:
    """Whether query and key are tokens of one image: bool [length, capacity].

    Args:
        images: [length], 0 for text.
        offsets: [capacity], of the keys in this call; negative for those of earlier ones.
    """
    of_key = graph.op("Gather", images, graph.op("Max", offsets, graph.constant([0], np.int64)), axis=0)
    of_query = graph.op("Unsqueeze", images, graph.constant([1], np.int64))
    is_image = graph.op("Greater", of_query, graph.constant(0, np.int64))
    return str(graph.op("And", graph.op("Equal", of_query, of_key), is_image))


def rms_norm(graph: Graph, value: str, name: str, epsilon: float) -> str:
    """Gemma's norm over the last axis, its weights stored with their one added; ONNX Runtime makes it one operator."""
    square = graph.op("ReduceMean", graph.op("Pow", value, graph.constant(2)), graph.constant([-1], np.int64))
    root = graph.op("Sqrt", graph.op("Add", square, graph.constant(epsilon)))
    return str(graph.op("Mul", graph.op("Div", value, root), graph.parameter(name)))


def _kind(graph: Graph, text: GemmaTextConfig, name: str, cache: str, positions: str, images: str) -> _Kind:
    capacity = graph.op("Shape", cache, start=2, end=3)
    angles = graph.op("Mul", graph.op("Cast", _column(graph, positions), to=1), graph.constant(frequencies(text, name)))
    angles = graph.op("Unsqueeze", graph.op("Concat", angles, angles, axis=-1), graph.constant([1], np.int64))
    signs = graph.constant(np.repeat([-1.0, 1.0], text.head_dim // 2))
    key = graph.op("Cos", angles), graph.op("Mul", graph.op("Sin", angles), signs)
    scale = graph.constant(text.query_pre_attn_scalar**-0.5)
    mask = _mask(graph, capacity, positions, images, window_of(text, name))
    return _Kind(
        name,
        graph.op("Tile", mask, graph.constant([text.num_attention_heads // text.num_key_value_heads, 1], np.int64)),
        (graph.op("Mul", key[0], scale), graph.op("Mul", key[1], scale)),
        key,
        _indices(graph, text.num_key_value_heads, graph.op("Mod", positions, capacity)),
    )


def _mask(graph: Graph, capacity: str, positions: str, images: str, window: int | None) -> str:
    """A query sees keys that are not later than itself, or of its own image; in local layers within the window."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    first, last = (graph.op("Gather", positions, graph.constant(end, np.int64)) for end in (0, -1))
    slots = graph.op("Range", zero, graph.op("Squeeze", capacity), one)
    held = graph.op("Sub", last, graph.op("Mod", graph.op("Sub", last, slots), capacity))  # negative: nothing yet
    distance = graph.op("Sub", _column(graph, positions), held)
    earlier = graph.op("GreaterOrEqual", distance, zero)
    seen = graph.op("Or", earlier, same_image(graph, images, graph.op("Sub", held, first)))
    seen = graph.op("And", seen, graph.op("GreaterOrEqual", held, zero))
    if window is not None:
        seen = graph.op("And", seen, graph.op("Less", distance, graph.constant(window, np.int64)))
    return str(graph.op("Where", seen, graph.constant(0), graph.constant(_HIDDEN)))


def _indices(graph: Graph, heads: int, slots: str) -> str:
    """Indices for ScatterND into [1, heads, capacity, head_dim]."""
    length = graph.op("Shape", slots)
    shape = graph.op("Concat", graph.constant([1, heads], np.int64), length, graph.constant([1], np.int64), axis=0)
    head = graph.constant(np.arange(heads).reshape(1, heads, 1, 1), np.int64)
    parts = (graph.constant(0, np.int64), head, _column(graph, slots))
    return str(graph.op("Concat", *(graph.op("Expand", part, shape) for part in parts), axis=-1))


def _column(graph: Graph, values: str) -> str:
    return graph.reshape(values, [-1, 1])


def _cache(graph: Graph, text: GemmaTextConfig, number: int, kind: str, part: str) -> str:
    shape: list[int | str] = [1, text.num_key_value_heads, f"{kind}_capacity", text.head_dim]
    return graph.input(f"{names.PAST}.{number}.{part}", shape)


def _layer(
    graph: Graph, text: GemmaTextConfig, prefix: str, hidden: str, kind: _Kind, number: int, caches: list[str]
) -> str:
    """Norms stand before and behind both attention and MLP."""

    def norm(value: str, name: str) -> str:
        return rms_norm(graph, value, f"{prefix}{name}.weight", text.rms_norm_eps)

    mixed = _attention(graph, text, f"{prefix}self_attn.", norm(hidden, "input_layernorm"), kind, number, caches)
    hidden = graph.op("Add", hidden, norm(mixed, "post_attention_layernorm"))
    mapped = _mlp(graph, norm(hidden, "pre_feedforward_layernorm"), f"{prefix}mlp.")
    return str(graph.op("Add", hidden, norm(mapped, "post_feedforward_layernorm")))


def _attention(
    graph: Graph, text: GemmaTextConfig, prefix: str, hidden: str, kind: _Kind, number: int, caches: list[str]
) -> str:
    """Heads that share keys and values are rows of one multiplication."""
    heads, shared, width = text.num_attention_heads, text.num_key_value_heads, text.head_dim

    def project(name: str, count: int) -> str:
        return graph.reshape(graph.linear(hidden, f"{prefix}{name}_proj.weight"), [0, 0, count, width])

    def rotated(name: str, count: int, by: tuple[str, str]) -> str:
        normed = rms_norm(graph, project(name, count), f"{prefix}{name}_norm.weight", text.rms_norm_eps)
        return _rotate(graph, normed, by, width)

    query, key, value = (
        graph.op("Transpose", one, perm=[0, 2, 1, 3])
        for one in (rotated("q", heads, kind.query), rotated("k", shared, kind.key), project("v", shared))
    )
    key, value = (
        _append(graph, text, cache, new, kind, f"{names.PRESENT}.{number}.{part}")
        for cache, new, part in zip(caches, (key, value), ("key", "value"), strict=True)
    )
    query = graph.reshape(query, [1, shared, -1, width])
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
    weights = graph.op("Softmax", graph.op("Add", scores, kind.mask), axis=-1)
    mixed = graph.reshape(graph.op("MatMul", weights, value), [1, heads, -1, width])
    mixed = graph.reshape(graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, heads * width])
    return graph.linear(mixed, f"{prefix}o_proj.weight")


def _append(graph: Graph, text: GemmaTextConfig, cache: str, new: str, kind: _Kind, name: str) -> str:
    """New vectors [1, heads, length, head_dim] in their slots of the ring."""
    present = graph.op("ScatterND", cache, kind.indices, new, named=name)
    graph.output(present, name, [1, text.num_key_value_heads, f"{kind.name}_capacity", text.head_dim])
    return str(present)


def _rotate(graph: Graph, value: str, by: tuple[str, str], width: int) -> str:
    """Rotary embedding of [1, length, heads, head_dim]: each half rotates with the other."""
    cosine, sine = by
    left, right = graph.slice(value, 0, width // 2), graph.slice(value, width // 2, width)
    crossed = graph.op("Concat", right, left, axis=-1)
    return str(graph.op("Add", graph.op("Mul", value, cosine), graph.op("Mul", crossed, sine)))


def _mlp(graph: Graph, value: str, prefix: str) -> str:
    gate = graph.op("Gelu", graph.linear(value, f"{prefix}gate_proj.weight"), approximate="tanh")
    wide = graph.op("Mul", gate, graph.linear(value, f"{prefix}up_proj.weight"))
    return graph.linear(wide, f"{prefix}down_proj.weight")


DECODER_GRAPHS = {"decoder_model_merged": decoder, names.EMBEDDING_STEM: embed_tokens}
