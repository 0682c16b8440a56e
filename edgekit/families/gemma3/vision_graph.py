"""MedGemma's vision part as an ONNX graph: SigLIP's tower, pooled and projected to token embeddings."""

from __future__ import annotations

import math

from edgekit.families.gemma3.config import MedGemmaConfig
from edgekit.families.gemma3.graph import rms_norm
from edgekit.families.gemma3.tensors import TOWER_PREFIX
from edgekit.families.siglip.graph import vision_tower
from edgekit.formats.onnx.graph import Graph

OUTPUT = "image_features"


def vision(graph: Graph, config: MedGemmaConfig) -> None:
    """`pixel_values` -> `image_features`: the tower, patches averaged into `mm_tokens_per_image`, the projector."""
    tower, tokens, width = config.vision_config, config.mm_tokens_per_image, config.text_config.hidden_size
    assert tower is not None, "a configuration with a vision part has a vision tower"
    hidden = vision_tower(graph, TOWER_PREFIX, tower, "images")
    side = tower.image_size // tower.patch_size
    kernel = side // math.isqrt(tokens)
    square = graph.reshape(graph.op("Transpose", hidden, perm=[0, 2, 1]), [0, 0, side, side])
    pooled = graph.op("AveragePool", square, kernel_shape=[kernel] * 2, strides=[kernel] * 2)
    pooled = graph.op("Transpose", graph.reshape(pooled, [0, 0, tokens]), perm=[0, 2, 1])
    normed = rms_norm(graph, pooled, "multi_modal_projector.mm_soft_emb_norm.weight", tower.layer_norm_eps)
    features = graph.op("MatMul", normed, graph.parameter("multi_modal_projector.mm_input_projection_weight"))
    graph.output(features, OUTPUT, ["images", tokens, width])


GRAPHS = {"vision_encoder": vision}
