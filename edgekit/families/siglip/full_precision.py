"""SigLIP in transformers, and its processors, of which the Pillow-backed ones are used: see gemma3's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families.full_precision import EncoderModules, FullPrecision, hub_tokenizer, rgb
from edgekit.families.siglip.config import ImageEncoderConfig, MedSiglipConfig
from edgekit.inputs.image import ImageLike


def build(config: MedSiglipConfig) -> Any:
    """SiglipModel."""
    from transformers import SiglipConfig, SiglipModel

    # SigLIP's own defaults for these ids lie beyond a small vocabulary, and nothing uses them.
    text = {**config.text_config.model_dump(exclude={"pad_id"}), "bos_token_id": None, "eos_token_id": None}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=config.vision_config.model_dump()))


def build_vision(config: ImageEncoderConfig) -> Any:
    """SiglipVisionModel."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**config.vision_config.model_dump()))


def _pixels(
    checkpoint: Checkpoint, config: ImageEncoderConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil.from_pretrained(checkpoint.root, local_files_only=True)
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
    build,
    {"image_encoder": EncoderModules(_pixels, _image_features), "text_encoder": EncoderModules(_ids, _text_features)},
)
VISION_FULL_PRECISION = FullPrecision(
    build_vision,
    {"image_encoder": EncoderModules(_pixels, lambda model, pixels: model(pixel_values=pixels).pooler_output)},
)
