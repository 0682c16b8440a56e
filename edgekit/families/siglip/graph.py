"""SigLIP's towers as ONNX graphs: MedSigLIP's two encoders, and the vision tower that MedGemma has, too."""

from __future__ import annotations

import numpy as np

from edgekit.families.siglip.config import ImageEncoderConfig, MedSiglipConfig
from edgekit.families.siglip.tower import EncoderConfig, VisionConfig
from edgekit.formats.onnx import names
from edgekit.formats.onnx.graph import CONTRIB, Graph

POOLED = "pooler_output"


def image_encoder(graph: Graph, config: ImageEncoderConfig) -> None:
    """`pixel_values` -> `last_hidden_state`, `pooler_output`, `image_embeds` (of length one)."""
    vision, prefix = config.vision_config, "vision_model."
    width = vision.hidden_size
    hidden = vision_tower(graph, prefix, vision)
    pooled = _pooling_head(graph, f"{prefix}head.", hidden, vision)
    graph.output(hidden, "last_hidden_state", ["batch", vision.patches, width])
    _pooled_outputs(graph, pooled, "image_embeds", width)


def text_encoder(graph: Graph, config: MedSiglipConfig) -> None:
    """`input_ids` -> `last_hidden_state`, `pooler_output`, `text_embeds` (of length one). Padding is attended to."""
    text, prefix = config.text_config, "text_model."
    length = text.max_position_embeddings
    ids = graph.input(names.IDS, ["batch", length], "INT64")
    embedded = graph.rows(ids, f"{prefix}embeddings.token_embedding.weight")
    hidden = graph.op("Add", embedded, graph.parameter(f"{prefix}embeddings.position_embedding.weight"))
    hidden = _layers(graph, prefix, hidden, text)
    hidden = _layer_norm(graph, hidden, f"{prefix}final_layer_norm", text)
    last = graph.op("Gather", hidden, graph.constant(length - 1, np.int64), axis=1)
    pooled = graph.linear(last, f"{prefix}head.weight", f"{prefix}head.bias")
    graph.output(hidden, "last_hidden_state", ["batch", length, text.hidden_size])
    _pooled_outputs(graph, pooled, "text_embeds", text.projection_size or text.hidden_size)


def vision_tower(graph: Graph, prefix: str, vision: VisionConfig, items: str = "batch") -> str:
    """`pixel_values` -> the hidden states of all patches [items, patches, width], behind the last layer norm.

    Args:
        prefix: of the tensors' names.
        items: what the first dimension is called.
    """
    pixels = graph.input(names.PIXELS, [items, 3, vision.image_size, vision.image_size])
    embeddings = f"{prefix}embeddings."
    patches = graph.op(
        "Conv",
        pixels,
        graph.parameter(f"{embeddings}patch_embedding.weight"),
        graph.parameter(f"{embeddings}patch_embedding.bias"),
        kernel_shape=[vision.patch_size] * 2,
        strides=[vision.patch_size] * 2,
    )
    rows = graph.op("Transpose", graph.reshape(patches, [0, 0, vision.patches]), perm=[0, 2, 1])
    hidden = graph.op("Add", rows, graph.parameter(f"{embeddings}position_embedding.weight"))
    hidden = _layers(graph, prefix, hidden, vision)
    return _layer_norm(graph, hidden, f"{prefix}post_layernorm", vision)


def _layers(graph: Graph, prefix: str, hidden: str, config: EncoderConfig) -> str:
    for number in range(config.num_hidden_layers):
        layer = f"{prefix}encoder.layers.{number}."
        normed = _layer_norm(graph, hidden, f"{layer}layer_norm1", config)
        query, key, value = (
            graph.linear(normed, f"{layer}self_attn.{name}.weight", f"{layer}self_attn.{name}.bias")
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = _attention(graph, query, key, value, config)
        mixed = graph.linear(mixed, f"{layer}self_attn.out_proj.weight", f"{layer}self_attn.out_proj.bias")
        hidden = graph.op("Add", hidden, mixed)
        normed = _layer_norm(graph, hidden, f"{layer}layer_norm2", config)
        hidden = graph.op("Add", hidden, _mlp(graph, normed, f"{layer}mlp."))
    return hidden


def _attention(graph: Graph, query: str, key: str, value: str, config: EncoderConfig) -> str:
    """Everything attends to everything. One operator, which never holds the scores of 4,096 x 4,096 patches."""
    heads = config.num_attention_heads
    return str(graph.op("MultiHeadAttention", query, key, value, domain=CONTRIB, num_heads=heads))


def _mlp(graph: Graph, value: str, prefix: str) -> str:
    wide = graph.linear(value, f"{prefix}fc1.weight", f"{prefix}fc1.bias")
    return graph.linear(graph.op("Gelu", wide, approximate="tanh"), f"{prefix}fc2.weight", f"{prefix}fc2.bias")


def _pooling_head(graph: Graph, prefix: str, hidden: str, vision: VisionConfig) -> str:
    """A learned probe attends to all patches. Query, key and value matrices lie in one, as transformers has them."""
    width = vision.hidden_size
    probe = graph.op("Expand", graph.parameter(f"{prefix}probe"), _batch(graph, hidden))
    matrix, bias = f"{prefix}attention.in_proj_weight", f"{prefix}attention.in_proj_bias"
    query = graph.slice(graph.linear(probe, matrix, bias), 0, width)
    both = graph.linear(hidden, matrix, bias)
    key, value = graph.slice(both, width, 2 * width), graph.slice(both, 2 * width, 3 * width)
    mixed = _attention(graph, query, key, value, vision)
    mixed = graph.linear(mixed, f"{prefix}attention.out_proj.weight", f"{prefix}attention.out_proj.bias")
    normed = _layer_norm(graph, mixed, f"{prefix}layernorm", vision)
    pooled = graph.op("Add", mixed, _mlp(graph, normed, f"{prefix}mlp."))
    return str(graph.op("Squeeze", pooled, graph.constant([1], np.int64)))


def _batch(graph: Graph, hidden: str) -> str:
    """The shape [batch, 1, 1]."""
    batch = graph.op("Shape", hidden, start=0, end=1)
    return str(graph.op("Concat", batch, graph.constant([1, 1], np.int64), axis=0))


def _layer_norm(graph: Graph, value: str, name: str, config: EncoderConfig) -> str:
    weight, bias = graph.parameter(f"{name}.weight"), graph.parameter(f"{name}.bias")
    return str(graph.op("LayerNormalization", value, weight, bias, epsilon=config.layer_norm_eps))


def _pooled_outputs(graph: Graph, pooled: str, name: str, width: int) -> None:
    graph.output(pooled, POOLED, ["batch", width])
    graph.output(graph.op("LpNormalization", pooled, axis=-1, p=2), name, ["batch", width])
