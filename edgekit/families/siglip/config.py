"""SigLIP's config.json, checked before any library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from edgekit.families.base import Config, Count, validate
from edgekit.families.siglip.tower import EncoderConfig, VisionConfig


class SiglipTextConfig(EncoderConfig):
    """`text_config`; the defaults are those of transformers' SiglipTextConfig."""

    vocab_size: Count = 32000
    max_position_embeddings: Count = 64
    projection_size: Count | None = None
    # The tokenizer pads with </s>; config.json's own pad_token_id is not what the model was trained with.
    pad_id: int = 1


class ImageEncoderConfig(Config):
    """What both SiglipModel and SiglipVisionModel have."""

    vision_config: VisionConfig


class MedSiglipConfig(ImageEncoderConfig):
    """config.json of SiglipModel."""

    text_config: SiglipTextConfig


class _VisionAlone(VisionConfig):
    """config.json of SiglipVisionModel; without its pooling head it gives no vector of an image."""

    vision_use_head: Literal[True] = True


def parse(config: Mapping[str, Any]) -> MedSiglipConfig:
    """Validate config.json."""
    return validate(MedSiglipConfig, config, "config.json")


def parse_vision(config: Mapping[str, Any]) -> ImageEncoderConfig:
    """Validate a flat config.json."""
    return ImageEncoderConfig(vision_config=validate(_VisionAlone, config, "config.json"))
