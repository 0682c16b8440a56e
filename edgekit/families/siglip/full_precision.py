"""SigLIP in transformers, and its processors, of which the Pillow-backed ones are used: see gemma3's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families.full_precision import (
    EncoderModules,
    FullPrecision,
    Vectors,
    at_most,
    hub_image_processor,
    hub_tokenizer,
    rgb,
)
from edgekit.families.siglip.config import ImageEncoderConfig, MedSiglipConfig
from edgekit.families.siglip.text import siglip_text
from edgekit.inputs.image import ImageLike


def stated(config: MedSiglipConfig) -> dict[str, Any]:
    """A configuration by transformers' names."""
    text, vision = config.text_config.model_dump(), config.vision_config.model_dump()
    text["projection_size"] = text["projection_size"] or text["hidden_size"]
    return {
        "model_type": "siglip",
        "text_config.model_type": "siglip_text_model",
        **{f"text_config.{name}": value for name, value in text.items()},
        **{f"vision_config.{name}": value for name, value in vision.items()},
    }


def stated_vision(config: ImageEncoderConfig) -> dict[str, Any]:
    """The configuration of a vision tower alone, by transformers' names."""
    return {"model_type": "siglip_vision_model", **config.vision_config.model_dump()}


def _pixels(
    checkpoint: Checkpoint, config: ImageEncoderConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    processor = hub_image_processor(checkpoint)
    made = processor(images=[rgb(image) for image in images], return_tensors="np")
    return np.asarray(made["pixel_values"], np.float32)


def _ids(
    checkpoint: Checkpoint, config: MedSiglipConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    tokenizer, length = hub_tokenizer(checkpoint), config.text_config.max_position_embeddings
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return np.asarray(made["input_ids"], np.int64)


def _image_outputs(model: Any, pixels: Any) -> dict[str, Any]:
    return _outputs(model.get_image_features(pixel_values=pixels), "image_embeds")


def _tower_outputs(model: Any, pixels: Any) -> dict[str, Any]:
    return _outputs(model(pixel_values=pixels), "image_embeds")


def _text_outputs(model: Any, ids: Any) -> dict[str, Any]:
    return _outputs(model.get_text_features(input_ids=ids), "text_embeds")


def _outputs(given: Any, unit: str) -> dict[str, Any]:
    """With the vector of length one that SiglipModel.forward compares."""
    pooled = given.pooler_output
    embeds = pooled / pooled.norm(p=2, dim=-1, keepdim=True)
    return {"last_hidden_state": given.last_hidden_state, "pooler_output": pooled, unit: embeds}


def _scores(scalars: Mapping[str, float], images: Vectors, texts: Vectors) -> Vectors:
    """As SiglipModel.forward has it, and the sigmoid that the model was trained with."""
    images, texts = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (images, texts))
    logits = images @ texts.T * np.exp(scalars["logit_scale"]) + scalars["logit_bias"]
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def sliced(config: Mapping[str, Any]) -> dict[str, Any]:
    """All layers of a tower are alike, so four stand for them."""
    return at_most(config, dict.fromkeys((f"{tower}_config.num_hidden_layers" for tower in ("text", "vision")), 4))


FULL_PRECISION = FullPrecision(
    "SiglipModel",
    stated,
    encoders={
        "image_encoder": EncoderModules(_pixels, _image_outputs, "pooler_output"),
        "text_encoder": EncoderModules(_ids, _text_outputs, "pooler_output"),
    },
    canonical=siglip_text,
    settings={
        "hidden": "text_config.projection_size",
        "text_length": "text_config.max_position_embeddings",
        "vocabulary": "text_config.vocab_size",
    },
    scalars=("logit_scale", "logit_bias"),
    scores=_scores,
    sliced=sliced,
)
VISION_FULL_PRECISION = FullPrecision(
    "SiglipVisionModel",
    stated_vision,
    encoders={"image_encoder": EncoderModules(_pixels, _tower_outputs, "pooler_output")},
    settings={"hidden": "hidden_size"},
    sliced=lambda config: at_most(config, {"num_hidden_layers": 4}),
)
