"""What edgekit's ONNX graphs call their inputs and outputs: who writes them and who opens them agree here."""

from __future__ import annotations

from collections.abc import Mapping

PIXELS, IDS = "pixel_values", "input_ids"
POOLED = "pooler_output"

# The output of an encoder's graph that models are composed of, by role.
ENCODER_OUTPUTS: Mapping[str, str] = {
    "vision": "image_features",
    "image_encoder": POOLED,
    "text_encoder": POOLED,
}

# Of a decoder's two graphs; `edgekit.families.gemma3.graph` says what each holds.
EMBEDDING_STEM = "embed_tokens"
EMBEDS, IMAGES, POSITIONS, WANTED = "inputs_embeds", "image_index", "position_ids", "logits_positions"
LOGITS = "logits"
PAST, PRESENT = "past_key_values", "present"
LOCAL_CAPACITY, GLOBAL_CAPACITY = "local_capacity", "global_capacity"
