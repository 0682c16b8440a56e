"""How Gemma 3 wants images to become pixels."""

from __future__ import annotations

from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families import base
from edgekit.families.gemma3.config import MedGemmaConfig


def preprocessing_of(checkpoint: Checkpoint, config: MedGemmaConfig) -> Preprocessing | None:
    """Bilinear unless the checkpoint says otherwise; pan and scan is off in both published versions.

    None where the model sees no images.
    """
    if config.vision_config is None:
        return None
    return base.preprocessing_of(checkpoint, config.vision_config.image_size, default_resample=2)
