"""Gemma 3 in GGUF: llama.cpp's names of its tensors, and the keys of its two files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.families.gemma3 import gguf_audit, gguf_checks, gguf_schema, gguf_shapes
from edgekit.families.gemma3.chat import MARKERS
from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.families.gemma3.gguf_meanings import meaning
from edgekit.families.gemma3.gguf_vocabulary import add_stops, add_tokenizer, notes, vocabulary, vocabulary_bytes
from edgekit.families.gemma3.preprocessing import preprocessing_of
from edgekit.families.gemma3.template_chat import same_turns
from edgekit.families.gemma3.tensors import DECODER_PREFIX, TOWER_PREFIX, decoder_tensors, vision_part_tensors
from edgekit.formats.gguf.form import GgufForm, GgufTensorForm
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.plan import PartPlan

# The hub's name -> llama.cpp's; {} is the number of the layer.
_DECODER_NAMES = {
    "embed_tokens": "token_embd",
    "layers.{}.input_layernorm": "blk.{}.attn_norm",
    "layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm",
    "layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
    "layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    "layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "layers.{}.mlp.down_proj": "blk.{}.ffn_down",
    "norm": "output_norm",
}
_VISION_NAMES = {
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "encoder.layers.{}.layer_norm1": "v.blk.{}.ln1",
    "encoder.layers.{}.layer_norm2": "v.blk.{}.ln2",
    "encoder.layers.{}.self_attn.q_proj": "v.blk.{}.attn_q",
    "encoder.layers.{}.self_attn.k_proj": "v.blk.{}.attn_k",
    "encoder.layers.{}.self_attn.v_proj": "v.blk.{}.attn_v",
    "encoder.layers.{}.self_attn.out_proj": "v.blk.{}.attn_out",
    "encoder.layers.{}.mlp.fc1": "v.blk.{}.ffn_up",
    "encoder.layers.{}.mlp.fc2": "v.blk.{}.ffn_down",
    "post_layernorm": "v.post_ln",
    "multi_modal_projector.mm_soft_emb_norm": "mm.soft_emb_norm",
}
_PROJECTION = "multi_modal_projector.mm_input_projection_weight", "mm.input_projection.weight"
_NUMBER = re.compile(r"(?<=layers\.)\d+")


def decoder_forms(config: MedGemmaConfig) -> Mapping[str, GgufTensorForm]:
    """The decoder's tensors in its file."""
    scale = query_scale(config.text_config)
    names = _names((spec.name for spec in decoder_tensors(config)), DECODER_PREFIX, _DECODER_NAMES)
    return {
        name: GgufTensorForm(target, scale if name.endswith(".q_norm.weight") else 1.0)
        for name, target in names.items()
    }


def vision_forms(config: MedGemmaConfig) -> Mapping[str, GgufTensorForm]:
    """The vision part's tensors in its file."""
    own, other = _PROJECTION
    names = (spec.name for spec in vision_part_tensors(config) if spec.name != own)
    forms = {name: GgufTensorForm(target) for name, target in _names(names, TOWER_PREFIX, _VISION_NAMES).items()}
    return {**forms, own: GgufTensorForm(other)}


def _renamed(header: GgufHeader, form: GgufTensorForm) -> GgufTensorForm:
    """A tensor's form in a projector file, whoever wrote it."""
    if not gguf_schema.swapped(header):
        return form
    up, down = ".ffn_up.", ".ffn_down."
    other = form.name.replace(up, down) if up in form.name else form.name.replace(down, up)
    return replace(form, name=other)


def _names(names: Iterable[str], prefix: str, table: Mapping[str, str]) -> dict[str, str]:
    """Canonical names with llama.cpp's."""
    renamed = {}
    for name in names:
        stem, leaf = name.removeprefix(prefix).rsplit(".", 1)
        numbers = _NUMBER.findall(stem)
        renamed[name] = f"{table[_NUMBER.sub('{}', stem)].format(*numbers)}.{leaf}"
    return renamed


def query_scale(text: GemmaTextConfig) -> float:
    """What queries are multiplied by in a GGUF file, whose reader divides them by the root of a number of its own.

    Transformers divides attention scores by sqrt(query_pre_attn_scalar). A GGUF file has no key for it: llama.cpp
    takes the width of a head, and for the 27B, which it knows by its 62 layers, the model's width over its heads.
    """
    heads_share = text.hidden_size // text.num_attention_heads
    assumed = heads_share if text.num_hidden_layers == 62 else text.head_dim
    return math.sqrt(assumed / text.query_pre_attn_scalar)


def _decoder_header(writer: Any, plan: PartPlan) -> None:
    import gguf

    config: MedGemmaConfig = plan.config
    text = config.text_config

    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_sliding_window(text.sliding_window)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_rope_freq_base_swa(text.rope_local_base_freq)
    if text.rope_factor != 1.0:  # llama.cpp applies it to the global layers only, as Gemma 3 does
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(text.rope_factor)
    tokens = vocabulary(plan)
    add_tokenizer(writer, tokens, plan.checkpoint.root)
    add_stops(writer, tokens, plan.checkpoint)
    if template := plan.checkpoint.chat_template():
        writer.add_chat_template(template)


def _vision_header(writer: Any, plan: PartPlan) -> None:
    config: MedGemmaConfig = plan.config
    vision = config.vision_config
    preprocessing = preprocessing_of(plan.checkpoint, config)
    assert vision is not None
    assert preprocessing is not None
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(_stored_width(plan))
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_image_mean(list(preprocessing.mean))
    writer.add_vision_image_std(list(preprocessing.std))
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_use_gelu(True)
    side = vision.image_size // vision.patch_size
    pooled = round(config.mm_tokens_per_image**0.5)
    if pooled**2 != config.mm_tokens_per_image or side % pooled:
        raise CheckpointError(
            f"config.json: {side} x {side} patches cannot be pooled to {config.mm_tokens_per_image} tokens"
        )
    if side // pooled != 4:  # llama.cpp's default
        writer.add_vision_projector_scale_factor(side // pooled)


def _stored_width(plan: PartPlan) -> int:
    """The MLP's width in this file, zeros included."""
    return next(planned.shape[0] for planned in plan.tensors if planned.spec.kind == "ffn_up")


DECODER = GgufForm(
    "gemma3",
    "a language model",
    "-m",
    header=_decoder_header,
    tensors=decoder_forms,
    check=gguf_checks.check_decoder,
    stated=gguf_checks.decoder_states,
    hub_name=gguf_audit.decoder_name,
    constants=gguf_audit.decoder,
    meaning=meaning,
    settings=gguf_checks.settings_of,
    copies={"output.weight": "token_embd.weight"},
    notes=notes,
    same_turns=same_turns,
    markers=MARKERS,
    needs=gguf_checks.markers_needed,
    vocabulary_bytes=vocabulary_bytes,
    shape=gguf_shapes.decoder_shape,
)
VISION = GgufForm(
    "clip",
    "a projector",
    "--mmproj",
    header=_vision_header,
    tensors=vision_forms,
    check=gguf_checks.check_projector,
    stated=gguf_checks.projector_states,
    hub_name=gguf_audit.projector_name,
    constants=gguf_audit.projector,
    meaning=meaning,
    renamed=_renamed,
    prefix="mmproj-",
    shape=gguf_shapes.projector_shape,
)
