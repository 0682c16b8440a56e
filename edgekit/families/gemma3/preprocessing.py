"""How Gemma 3 wants images to become pixels."""

from __future__ import annotations

from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families import base
from edgekit.families.gemma3.config import MedGemmaConfig


def preprocessing_of(checkpoint: Checkpoint, config: MedGemmaConfig) -> Preprocessing | None:
    """Bilinear unless the checkpoint says otherwise; pan and scan is off in both published versions.

    None where the model sees no images.

    Raises:
        CheckpointError: as `edgekit.families.base.preprocessing_of`, or an image is said to take other tokens.
    """
    if config.vision_config is None:
        return None
    size, stated = config.vision_config.image_size, checkpoint.json("processor_config.json").get("image_seq_length")
    if stated not in (None, config.mm_tokens_per_image):
        raise CheckpointError(
            f"{checkpoint.root}/processor_config.json: image_seq_length {stated!r:.80}",
            allowed=f"{config.mm_tokens_per_image} tokens an image, by config.json's mm_tokens_per_image",
        )
    return base.preprocessing_of(checkpoint, size, default_resample=2, processor="Gemma3ImageProcessor")
