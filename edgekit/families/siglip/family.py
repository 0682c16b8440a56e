"""MedSigLIP: two SigLIP towers that map images and texts to one space."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import is_buffer
from edgekit.families.base import Family, Role, preprocessing_of
from edgekit.families.composition import Contrastive, ContrastiveSettings
from edgekit.families.siglip import graph
from edgekit.families.siglip.config import MedSiglipConfig, parse
from edgekit.families.siglip.full_precision import FULL_PRECISION
from edgekit.families.siglip.synthesis import SYNTHESIS
from edgekit.families.siglip.text import captions, text_ids, text_lengths
from edgekit.families.siglip.tower import encoder_tensors, vision_tensors
from edgekit.formats.onnx.form import OnnxForm


def canonical(name: str) -> str | None:
    """Hub names are transformers' names here; index buffers of old files are no weights."""
    return None if is_buffer(name) else name


def image_encoder_tensors(config: MedSiglipConfig) -> list[TensorSpec]:
    """The vision tower with its attention-pooling head."""
    hidden, mlp, head = config.vision_config.hidden_size, config.vision_config.intermediate_size, "vision_model.head."
    return [
        *vision_tensors("vision_model.", config.vision_config),
        TensorSpec(f"{head}probe", (1, 1, hidden), "probe", keep="F32"),
        TensorSpec(f"{head}attention.in_proj_weight", (3 * hidden, hidden), "pooling_matrix"),
        TensorSpec(f"{head}attention.in_proj_bias", (3 * hidden,), "bias", keep="F32"),
        TensorSpec(f"{head}attention.out_proj.weight", (hidden, hidden), "pooling_matrix"),
        TensorSpec(f"{head}attention.out_proj.bias", (hidden,), "bias", keep="F32"),
        TensorSpec(f"{head}layernorm.weight", (hidden,), "norm", keep="F32"),
        TensorSpec(f"{head}layernorm.bias", (hidden,), "bias", keep="F32"),
        TensorSpec(
            f"{head}mlp.fc1.weight",
            (mlp, hidden),
            "matrix",
            follows=(f"{head}layernorm.weight", f"{head}layernorm.bias"),
        ),
        TensorSpec(f"{head}mlp.fc1.bias", (mlp,), "bias", keep="F32"),
        TensorSpec(f"{head}mlp.fc2.weight", (hidden, mlp), "matrix"),
        TensorSpec(f"{head}mlp.fc2.bias", (hidden,), "bias", keep="F32"),
    ]


def text_encoder_tensors(config: MedSiglipConfig) -> list[TensorSpec]:
    """The text tower with its linear head, and the two scalars that turn a cosine into a logit."""
    text, prefix = config.text_config, "text_model."
    hidden, projection = text.hidden_size, text.projection_size or text.hidden_size
    return [
        TensorSpec(f"{prefix}embeddings.token_embedding.weight", (text.vocab_size, hidden), "token_embedding"),
        TensorSpec(
            f"{prefix}embeddings.position_embedding.weight",
            (text.max_position_embeddings, hidden),
            "position",
            keep="F32",
        ),
        *encoder_tensors(prefix, hidden, text.intermediate_size, text.num_hidden_layers),
        TensorSpec(f"{prefix}final_layer_norm.weight", (hidden,), "norm", keep="F32"),
        TensorSpec(f"{prefix}final_layer_norm.bias", (hidden,), "bias", keep="F32"),
        TensorSpec(f"{prefix}head.weight", (projection, hidden), "matrix"),
        TensorSpec(f"{prefix}head.bias", (projection,), "bias", keep="F32"),
        TensorSpec("logit_scale", (1,), "scalar", keep="F32"),
        TensorSpec("logit_bias", (1,), "scalar", keep="F32"),
    ]


def preprocessing(checkpoint: Checkpoint, config: MedSiglipConfig) -> Preprocessing:
    """Bicubic, as Hugging Face has it, unless the checkpoint says otherwise; Google's evaluations do it otherwise."""
    return preprocessing_of(checkpoint, config.vision_config.image_size, default_resample=3)


def settings(checkpoint: Checkpoint, config: MedSiglipConfig) -> dict[str, Any]:
    """Text length, padding, and the logit's scale and bias."""
    scalars = {
        name: float(np.ravel(checkpoint.read(checkpoint.tensors[name]))[0]) for name in ("logit_scale", "logit_bias")
    }
    return {
        "hidden": config.text_config.projection_size or config.text_config.hidden_size,
        "text_length": config.text_config.max_position_embeddings,
        "pad_token_id": config.text_config.pad_id,
        "vocabulary": config.text_config.vocab_size,
        **scalars,
    }


MEDSIGLIP = Family(
    name="medsiglip",
    architecture="SiglipModel",
    model_type="siglip",
    roles={
        "image_encoder": Role(
            image_encoder_tensors,
            "pooled",
            {"onnx": OnnxForm({"vision_model": graph.image_encoder}, graph.POOLED)},
            input="pixels",
        ),
        "text_encoder": Role(
            text_encoder_tensors,
            "pooled",
            {"onnx": OnnxForm({"text_model": graph.text_encoder}, graph.POOLED)},
            input="ids",
        ),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing,
    settings=settings,
    compositions=(Contrastive("image_encoder", "text_encoder", ContrastiveSettings, text_ids, text_lengths, captions),),
    full_precision=FULL_PRECISION,
    synthesis=SYNTHESIS,
)
