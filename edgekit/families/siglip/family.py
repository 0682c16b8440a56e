"""MedSigLIP: two SigLIP towers that map images and texts to one space."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgekit.artifacts.manifest import Preprocessing
from edgekit.artifacts.recipes import PartOf
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import is_buffer
from edgekit.families.base import Family, Role, preprocessing_of
from edgekit.families.composition import Contrastive, ContrastiveSettings, Embedding, EmbeddingSettings
from edgekit.families.shapes import EncoderShape
from edgekit.families.siglip import graph, onnx_constants, onnx_interfaces
from edgekit.families.siglip.config import ImageEncoderConfig, MedSiglipConfig, parse, parse_vision
from edgekit.families.siglip.full_precision import FULL_PRECISION, VISION_FULL_PRECISION
from edgekit.families.siglip.made_tokenizer import tokenizer_json
from edgekit.families.siglip.synthesis import SYNTHESIS, VISION_SYNTHESIS
from edgekit.families.siglip.text import captions, text_ids, text_lengths
from edgekit.families.siglip.tower import encoder_tensors, vision_shape, vision_tensors
from edgekit.formats.onnx.form import OnnxForm

_VISION = "vision_model."
_BARE = re.compile(r"^(?=embeddings\.|encoder\.|post_layernorm\.|head\.)")
_NO_CLASSES = (
    "edgekit has no head of trained classes; SiglipVisionModel.from_pretrained(DIR).save_pretrained(OTHER) keeps its "
    "encoder of images, which can be exported"
)

_TEXT_ALONE = (
    "it reads texts alone, and labels mean something only beside images; export the whole model, SiglipModel, or its "
    "encoder of images, SiglipVisionModel"
)


def canonical(name: str) -> str | None:
    """Hub names are transformers' names here; index buffers of old files are no weights."""
    return None if is_buffer(name) else name


def canonical_vision_only(name: str) -> str | None:
    """The same of SiglipVisionModel, which transformers 5 has without `vision_model.` in its own names."""
    return canonical(_BARE.sub(_VISION, name))


def image_encoder_tensors(config: ImageEncoderConfig) -> list[TensorSpec]:
    """The vision tower with its attention-pooling head."""
    vision, head = config.vision_config, f"{_VISION}head."
    hidden, mlp = vision.hidden_size, vision.intermediate_size
    return [
        *vision_tensors(_VISION, vision),
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


def preprocessing(checkpoint: Checkpoint, config: ImageEncoderConfig) -> Preprocessing:
    """Bicubic, as Hugging Face has it, unless the checkpoint says otherwise; Google's evaluations do it otherwise."""
    size = config.vision_config.image_size
    return preprocessing_of(checkpoint, size, default_resample=3, processor="SiglipImageProcessor")


def settings(checkpoint: Checkpoint, config: MedSiglipConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Text length, padding, and the logit's scale and bias where the folder has weights."""
    scalars = {
        name: float(np.ravel(checkpoint.read(checkpoint.tensors[name]))[0])
        for name in ("logit_scale", "logit_bias")
        if name in checkpoint.tensors
    }
    return {
        "hidden": config.text_config.projection_size or config.text_config.hidden_size,
        "text_length": config.text_config.max_position_embeddings,
        "pad_token_id": config.text_config.pad_id,
        "vocabulary": config.text_config.vocab_size,
        **scalars,
    }


def image_shape(config: ImageEncoderConfig) -> EncoderShape:
    """What encoding an image takes: its head's query, its output and its MLP see one row."""
    vision = config.vision_config
    return vision_shape(vision, 2 * vision.hidden_size * (vision.hidden_size + vision.intermediate_size))


_IMAGE_ENCODER = Role(
    image_encoder_tensors,
    "pooled",
    {
        "onnx": OnnxForm(
            {"vision_model": graph.image_encoder},
            onnx_interfaces.image_encoder,
            onnx_constants.image_encoder,
            onnx_constants.image_layers,
            {"vision_model": onnx_constants.image_positions},
            graph.POOLED,
        )
    },
    input="pixels",
    shape=image_shape,
)


def text_shape(config: MedSiglipConfig) -> EncoderShape:
    """What encoding a text takes; every one is padded to the same length."""
    text, length = config.text_config, config.text_config.max_position_embeddings
    looked_up, layers = (text.vocab_size + length) * text.hidden_size, text.num_hidden_layers
    return EncoderShape(layers, text.hidden_size, text.intermediate_size, length, looked_up, text.vocab_size)


MEDSIGLIP = Family(
    name="medsiglip",
    architecture="SiglipModel",
    model_type="siglip",
    roles={
        "image_encoder": _IMAGE_ENCODER,
        "text_encoder": Role(
            text_encoder_tensors,
            "pooled",
            {
                "onnx": OnnxForm(
                    {"text_model": graph.text_encoder},
                    onnx_interfaces.text_encoder,
                    onnx_constants.text_encoder,
                    onnx_constants.text_layers,
                    {"text_model": onnx_constants.text_positions},
                    graph.POOLED,
                )
            },
            input="ids",
            shape=text_shape,
        ),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing,
    settings=settings,
    compositions=(Contrastive("image_encoder", "text_encoder", ContrastiveSettings, text_ids, text_lengths, captions),),
    full_precision=FULL_PRECISION,
    unfit={"SiglipForImageClassification": _NO_CLASSES, "SiglipTextModel": _TEXT_ALONE},
    synthesis=SYNTHESIS,
    tokenizer_json=tokenizer_json,
)

VISION_ONLY = Family(
    name="medsiglip-vision",
    architecture="SiglipVisionModel",
    model_type="siglip_vision_model",
    roles={"image_encoder": _IMAGE_ENCODER},
    parse=parse_vision,
    canonical=canonical_vision_only,
    preprocessing=preprocessing,
    settings=lambda checkpoint, config, tokenizer: {"hidden": config.vision_config.hidden_size},
    compositions=(Embedding("image_encoder", EmbeddingSettings),),
    full_precision=VISION_FULL_PRECISION,
    elsewhere=("text_model.", "logit_scale", "logit_bias"),
    part_of=PartOf("medsiglip", "vision_config", frozenset({"image_encoder"})),
    synthesis=VISION_SYNTHESIS,
)
