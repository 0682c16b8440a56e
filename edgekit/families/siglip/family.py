"""MedSigLIP: two SigLIP towers that map images and texts to one space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families.base import Config, Count, Family, Role, Slot, preprocessing_of, validate
from edgekit.families.siglip.synthesis import SYNTHESIS
from edgekit.families.siglip.tower import EncoderConfig, VisionConfig, encoder_slots, vision_slots


class TextConfig(EncoderConfig):
    """`text_config`; the defaults are those of transformers' SiglipTextConfig."""

    vocab_size: Count = 32000
    max_position_embeddings: Count = 64
    projection_size: Count | None = None
    # The tokenizer pads with </s>; config.json's own pad_token_id is not what the model was trained with.
    pad_id: int = 1


class MedSiglipConfig(Config):
    """config.json of SiglipModel."""

    text_config: TextConfig
    vision_config: VisionConfig


def parse(config: Mapping[str, Any]) -> MedSiglipConfig:
    """Validate config.json."""
    return validate(MedSiglipConfig, config, "config.json")


def canonical(name: str) -> str | None:
    """Hub names are transformers' names here; index buffers of old files are no weights."""
    return None if name.endswith("position_ids") else name


def image_encoder_slots(config: MedSiglipConfig) -> list[Slot]:
    """The vision tower with its attention-pooling head."""
    hidden, mlp, head = config.vision_config.hidden_size, config.vision_config.intermediate_size, "vision_model.head."
    return [
        *vision_slots("vision_model.", config.vision_config),
        Slot(f"{head}probe", (1, 1, hidden), "probe", keep="F32"),
        Slot(f"{head}attention.in_proj_weight", (3 * hidden, hidden), "pooling_matrix"),
        Slot(f"{head}attention.in_proj_bias", (3 * hidden,), "bias", keep="F32"),
        Slot(f"{head}attention.out_proj.weight", (hidden, hidden), "pooling_matrix"),
        Slot(f"{head}attention.out_proj.bias", (hidden,), "bias", keep="F32"),
        Slot(f"{head}layernorm.weight", (hidden,), "norm", keep="F32"),
        Slot(f"{head}layernorm.bias", (hidden,), "bias", keep="F32"),
        Slot(
            f"{head}mlp.fc1.weight",
            (mlp, hidden),
            "matrix",
            follows=(f"{head}layernorm.weight", f"{head}layernorm.bias"),
        ),
        Slot(f"{head}mlp.fc1.bias", (mlp,), "bias", keep="F32"),
        Slot(f"{head}mlp.fc2.weight", (hidden, mlp), "matrix"),
        Slot(f"{head}mlp.fc2.bias", (hidden,), "bias", keep="F32"),
    ]


def text_encoder_slots(config: MedSiglipConfig) -> list[Slot]:
    """The text tower with its linear head, and the two scalars that turn a cosine into a logit."""
    text, prefix = config.text_config, "text_model."
    hidden, projection = text.hidden_size, text.projection_size or text.hidden_size
    return [
        Slot(f"{prefix}embeddings.token_embedding.weight", (text.vocab_size, hidden), "token_embedding"),
        Slot(
            f"{prefix}embeddings.position_embedding.weight",
            (text.max_position_embeddings, hidden),
            "position",
            keep="F32",
        ),
        *encoder_slots(prefix, "t.blk.", hidden, text.intermediate_size, text.num_hidden_layers),
        Slot(f"{prefix}final_layer_norm.weight", (hidden,), "norm", keep="F32"),
        Slot(f"{prefix}final_layer_norm.bias", (hidden,), "bias", keep="F32"),
        Slot(f"{prefix}head.weight", (projection, hidden), "matrix"),
        Slot(f"{prefix}head.bias", (projection,), "bias", keep="F32"),
        Slot("logit_scale", (1,), "scalar", keep="F32"),
        Slot("logit_bias", (1,), "scalar", keep="F32"),
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


FAMILY = Family(
    name="medsiglip",
    architecture="SiglipModel",
    roles={
        "image_encoder": Role(("onnx",), image_encoder_slots, "pooled", onnx_stems=("vision_model",)),
        "text_encoder": Role(("onnx",), text_encoder_slots, "pooled", onnx_stems=("text_model",)),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing,
    settings=settings,
    synthesis=SYNTHESIS,
)
