"""SigLIP's config.json, checked before any library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from edgekit.families.base import Count, ModelConfig, validate
from edgekit.families.siglip.tower import EncoderConfig, VisionConfig


class SiglipTextConfig(EncoderConfig):
    """`text_config`; the defaults are those of transformers' SiglipTextConfig."""

    vocab_size: Count = 32000
    max_position_embeddings: Count = 64
    projection_size: Count | None = None

    @property
    def pad_id(self) -> int:
        """The tokenizer pads with </s>; config.json's own pad_token_id is not what the model was trained with."""
        return 1


class SiglipVisionConfig(VisionConfig):
    """`vision_config`, of a tower with its pooling head; without one it gives no vector of an image."""

    vision_use_head: Literal[True] = True


class ImageEncoderConfig(ModelConfig):
    """What both SiglipModel and SiglipVisionModel have."""

    vision_config: SiglipVisionConfig


class MedSiglipConfig(ImageEncoderConfig):
    """config.json of SiglipModel."""

    text_config: SiglipTextConfig


def parse(config: Mapping[str, Any]) -> MedSiglipConfig:
    """Validate config.json."""
    return validate(MedSiglipConfig, config, "config.json")


def parse_vision(config: Mapping[str, Any]) -> ImageEncoderConfig:
    """Validate a flat config.json."""
    return ImageEncoderConfig(vision_config=validate(SiglipVisionConfig, config, "config.json"))
