"""The tensors of Gemma 3's decoder, and of its vision tower and projector, in the hub's key layout."""

from __future__ import annotations

import re

from edgekit.artifacts.levels import LayerPosition
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import is_buffer
from edgekit.families.gemma3.config import MedGemmaConfig
from edgekit.families.siglip.tower import vision_tensors

DECODER_PREFIX, TOWER_PREFIX = "language_model.model.", "vision_tower.vision_model."
EMBEDDING = f"{DECODER_PREFIX}embed_tokens.weight"
_OF_THE_WHOLE = "Gemma3ForConditionalGeneration."
HEADS = ("lm_head.weight", "language_model.lm_head.weight")  # the embedding again

# What transformers loads: its own names, with and without `model.` in front, and those of the hub.
_PLAIN = re.compile(r"^(model\.)?(?=embed_tokens\.|layers\.|norm\.)")
_LAYOUTS = (
    (_PLAIN, DECODER_PREFIX),
    (re.compile(r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.)"), ""),
    (re.compile(r"^language_model\.(?!model\.)"), DECODER_PREFIX),
    (re.compile(r"^vision_tower\.(?!vision_model\.)"), TOWER_PREFIX),
)


def canonical(name: str) -> str | None:
    """A stored name in the hub's layout; None for the output head, which is the tied embedding again, and buffers."""
    if name in HEADS or is_buffer(name):
        return None
    for pattern, replacement in _LAYOUTS:
        name = pattern.sub(replacement, name)
    return name


def canonical_text_only(name: str) -> str | None:
    """The same where config.json describes the decoder alone: of the whole model's names transformers then loads none,
    but begins with random weights, so that those are no names of a decoder's tensors here."""
    whole = re.match(r"^(model\.)?language_model\.", name)
    return f"{_OF_THE_WHOLE}{name}" if whole and name not in HEADS else canonical(name)


def decoder_tensors(config: MedGemmaConfig) -> list[TensorSpec]:
    """The language model."""
    text = config.text_config
    hidden, mlp = text.hidden_size, text.intermediate_size
    q_width, kv_width = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    norms = {
        "input_layernorm": hidden,
        "post_attention_layernorm": hidden,
        "pre_feedforward_layernorm": hidden,
        "post_feedforward_layernorm": hidden,
        "self_attn.q_norm": text.head_dim,
        "self_attn.k_norm": text.head_dim,
    }
    matrices = {
        "self_attn.q_proj": (q_width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.o_proj": (hidden, q_width),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    specs = [TensorSpec(EMBEDDING, (text.vocab_size, hidden), "token_embedding")]
    for layer in range(text.num_hidden_layers):
        prefix = f"{DECODER_PREFIX}layers.{layer}."
        groups = text.num_attention_heads // text.num_key_value_heads
        position = LayerPosition(layer, text.num_hidden_layers, groups)
        specs += [_norm(f"{prefix}{name}.weight", width) for name, width in norms.items()]
        specs += [
            TensorSpec(f"{prefix}{name}.weight", shape, name.split(".")[1], position=position)
            for name, shape in matrices.items()
        ]
    return [*specs, _norm(f"{DECODER_PREFIX}norm.weight", hidden)]


def vision_part_tensors(config: MedGemmaConfig) -> list[TensorSpec]:
    """The vision tower and the projector."""
    vision, hidden = config.vision_config, config.text_config.hidden_size
    assert vision is not None, "a configuration with a vision part has a vision tower"
    return [
        *vision_tensors(TOWER_PREFIX, vision),
        _norm("multi_modal_projector.mm_soft_emb_norm.weight", vision.hidden_size),
        # Quantized, llama.cpp returns NaN for every embedding without an error.
        TensorSpec(
            "multi_modal_projector.mm_input_projection_weight", (vision.hidden_size, hidden), "projection", keep="F16"
        ),
    ]


def _norm(name: str, width: int) -> TensorSpec:
    return TensorSpec(name, (width,), "norm", keep="F32", add_one=True)
