"""What edgekit's ONNX graphs call their inputs and outputs: who writes them and who opens them agree here."""

from __future__ import annotations

PIXELS, IDS = "pixel_values", "input_ids"

# Of a decoder's two graphs; the family's graph says what each holds.
EMBEDDING_STEM = "embed_tokens"
EMBEDS, IMAGES, POSITIONS, WANTED = "inputs_embeds", "image_index", "position_ids", "logits_positions"
LOGITS = "logits"
METADATA = "edgekit."  # what keys of a graph's metadata begin with
PAST, PRESENT = "past_key_values", "present"
LOCAL_CAPACITY, GLOBAL_CAPACITY = "local_capacity", "global_capacity"
