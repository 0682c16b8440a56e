"""SigLIP in transformers, and its processors, of which the Pillow-backed ones are used: see gemma3's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families.full_precision import EncoderModules, FullPrecision, hub_processor, hub_tokenizer, rgb
from edgekit.families.siglip.config import MedSiglipConfig
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


def _pixels(
    checkpoint: Checkpoint, config: MedSiglipConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    processor = hub_processor(checkpoint).image_processor
    made = processor(images=[rgb(image) for image in images], return_tensors="np")
    return np.asarray(made["pixel_values"], np.float32)


def _ids(
    checkpoint: Checkpoint, config: MedSiglipConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    tokenizer, length = hub_tokenizer(checkpoint), config.text_config.max_position_embeddings
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return np.asarray(made["input_ids"], np.int64)


def _image_features(model: Any, pixels: Any) -> Any:
    return model.get_image_features(pixel_values=pixels).pooler_output


def _text_features(model: Any, ids: Any) -> Any:
    return model.get_text_features(input_ids=ids).pooler_output


FULL_PRECISION = FullPrecision(
    "SiglipModel",
    stated,
    encoders={
        "image_encoder": EncoderModules(_pixels, _image_features),
        "text_encoder": EncoderModules(_ids, _text_features),
    },
)
