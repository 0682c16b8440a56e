"""What Gemma 3's decoder, and the tower before it, cost by."""

from __future__ import annotations

from edgekit.families.gemma3.config import MedGemmaConfig
from edgekit.families.gemma3.layers import is_global
from edgekit.families.shapes import DecoderShape, EncoderShape
from edgekit.families.siglip.tower import vision_shape


def decoder_shape(config: MedGemmaConfig) -> DecoderShape:
    """The language model."""
    text = config.text_config
    return DecoderShape(
        global_layers=tuple(map(is_global, range(text.num_hidden_layers))),
        hidden=text.hidden_size,
        wide=text.intermediate_size,
        key_values=2 * text.num_key_value_heads * text.head_dim,
        window=text.sliding_window,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        image_tokens=config.mm_tokens_per_image if config.vision_config else 0,
    )


def vision_part_shape(config: MedGemmaConfig) -> EncoderShape:
    """The vision tower, and the matrix that projects what is pooled of its patches."""
    assert config.vision_config is not None, "a configuration with a vision part has a vision tower"
    return vision_shape(config.vision_config, config.vision_config.hidden_size * config.text_config.hidden_size)
