"""MedGemma: Gemma 3's decoder behind a SigLIP vision tower and a pooling projector, and the decoder alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgekit.artifacts.levels import Place
from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.base import Config, Count, Family, Role, Slot, TokenId, preprocessing_of, validate
from edgekit.families.gemma3.layers import is_global
from edgekit.families.gemma3.synthesis import SYNTHESIS, TEXT_ONLY_SYNTHESIS
from edgekit.families.siglip.tower import VisionConfig, vision_slots


class TextConfig(Config):
    """`text_config`; the hub's files leave out what equals transformers' defaults, so the defaults stand here too."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: int = Field(gt=0, le=1000)
    num_attention_heads: Count = 8
    num_key_value_heads: Count = 4
    head_dim: Count = 256
    vocab_size: Count = 262208
    max_position_embeddings: Count = 131072
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    query_pre_attn_scalar: Count = 256
    sliding_window: Count = 4096
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    attn_logit_softcapping: None = None
    final_logit_softcapping: None = None
    attention_bias: Literal[False] = False
    use_bidirectional_attention: Literal[False] = False
    rope_theta: float = Field(default=1e6, gt=0)
    rope_local_base_freq: float = Field(default=1e4, gt=0)
    rope_factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one_rope_spelling(cls, data: Any) -> Any:
        """Both spellings of the two rotary embeddings become `rope_theta`, `rope_local_base_freq`, `rope_factor`."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        scaling = _object(data.pop("rope_scaling", None))
        if parameters := _object(data.pop("rope_parameters", None)):
            scaling, local = _object(parameters.get("full_attention")), _object(parameters.get("sliding_attention"))
            if local.get("rope_type", "default") != "default":
                raise ValueError(f"rope type {local['rope_type']!r} of local layers is not default")
            data["rope_theta"] = scaling.get("rope_theta", 1e6)
            data["rope_local_base_freq"] = local.get("rope_theta", 1e4)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in ("default", "linear"):
            raise ValueError(f"rope type {kind!r} is not one of default, linear")
        data["rope_factor"] = scaling.get("factor") if kind == "linear" else 1.0
        return data

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"{self.num_attention_heads} heads with {self.num_key_value_heads} num_key_value_heads")
        return self


class MedGemmaConfig(Config):
    """config.json of Gemma3ForConditionalGeneration, or of Gemma3ForCausalLM, which has no vision tower."""

    text_config: TextConfig
    vision_config: VisionConfig | None = None
    mm_tokens_per_image: int = Field(default=256, gt=0, le=65_536)
    boi_token_index: TokenId = 255_999
    eoi_token_index: TokenId = 256_000
    image_token_index: TokenId = 262_144
    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: Literal[True] = True


class _Generation(Config):
    """generation_config.json."""

    eos_token_id: TokenId | list[TokenId] | None = None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise ValueError(f"{value!r:.80} is no JSON object")  # noqa: TRY004 - pydantic reports ValueError only
    return value or {}


def parse(config: Mapping[str, Any]) -> MedGemmaConfig:
    """Validate config.json."""
    # transformers 5 writes `image_token_id` where the hub has `image_token_index`.
    renamed = {
        f"{k[:-3]}_index" if k in ("boi_token_id", "eoi_token_id", "image_token_id") else k: v
        for k, v in config.items()
    }
    parsed = validate(MedGemmaConfig, renamed, "config.json")
    if parsed.vision_config is None:
        raise CheckpointError(
            "config.json: vision_config: Gemma3ForConditionalGeneration has a vision tower, and none is described",
            allowed="architecture Gemma3ForCausalLM for a model of text alone",
        )
    _check_layers(config.get("text_config") or {}, parsed.text_config.num_hidden_layers)
    return parsed


class _TextOnly(Config):
    """What config.json of Gemma3ForCausalLM says beside the fields of its text model, on one level with them."""

    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: Literal[True] = True


def parse_text_only(config: Mapping[str, Any]) -> MedGemmaConfig:
    """Validate a flat config.json."""
    text, rest = validate(TextConfig, config, "config.json"), validate(_TextOnly, config, "config.json")
    _check_layers(config, text.num_hidden_layers)
    return MedGemmaConfig(text_config=text, eos_token_id=rest.eos_token_id)


def _check_layers(text: Mapping[str, Any], count: int) -> None:
    """llama.cpp hard-wires which layers are global, so a file with another pattern would be fluent and wrong."""
    expected = ["full_attention" if is_global(i) else "sliding_attention" for i in range(count)]
    patterns = [text.get(key, 6) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
    if patterns != [6, 6] or text.get("layer_types") not in (None, expected):
        raise CheckpointError("config.json: layers are not 5 local : 1 global", allowed="every sixth layer global")


_LAYOUTS = (
    (re.compile(r"^model\.(?=embed_tokens\.|layers\.|norm\.)"), "language_model.model."),
    (re.compile(r"^model\.language_model\.(?!model\.)"), "language_model.model."),
    (re.compile(r"^model\.(?=vision_tower\.|multi_modal_projector\.)"), ""),
    (re.compile(r"^vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),
)


_EMBEDDING = "language_model.model.embed_tokens.weight"
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")


def canonical(name: str) -> str | None:
    """A stored name in the hub's layout; None for the output head, which is the tied embedding again."""
    if name in _HEADS:
        return None
    for pattern, replacement in _LAYOUTS:
        name = pattern.sub(replacement, name)
    return name


def decoder_slots(config: MedGemmaConfig) -> list[Slot]:
    """The language model."""
    text = config.text_config
    hidden, mlp = text.hidden_size, text.intermediate_size
    q_width, kv_width = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    norms = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    matrices = {
        "self_attn.q_proj": ("attn_q", (q_width, hidden)),
        "self_attn.k_proj": ("attn_k", (kv_width, hidden)),
        "self_attn.v_proj": ("attn_v", (kv_width, hidden)),
        "self_attn.o_proj": ("attn_output", (hidden, q_width)),
        "mlp.gate_proj": ("ffn_gate", (mlp, hidden)),
        "mlp.up_proj": ("ffn_up", (mlp, hidden)),
        "mlp.down_proj": ("ffn_down", (hidden, mlp)),
    }
    prefix = "language_model.model."
    slots = [Slot(_EMBEDDING, (text.vocab_size, hidden), "token_embedding", "token_embd.weight")]
    for layer in range(text.num_hidden_layers):
        source, target = f"{prefix}layers.{layer}.", f"blk.{layer}."
        place = Place(layer, text.num_hidden_layers, text.num_attention_heads // text.num_key_value_heads)
        for norm, name in norms.items():
            slots.append(_norm(f"{source}{norm}.weight", hidden, f"{target}{name}.weight"))
        for norm, scale in (("q_norm", _query_scale(text)), ("k_norm", 1.0)):
            name = f"{source}self_attn.{norm}.weight"
            slots.append(_norm(name, text.head_dim, f"{target}attn_{norm}.weight", scale=scale))
        slots += [
            Slot(f"{source}{name}.weight", shape, name.split(".")[1], f"{target}{gguf}.weight", place=place)
            for name, (gguf, shape) in matrices.items()
        ]
    return [*slots, _norm(f"{prefix}norm.weight", hidden, "output_norm.weight")]


def vision_part_slots(config: MedGemmaConfig) -> list[Slot]:
    """The vision tower and the projector."""
    vision, hidden = config.vision_config, config.text_config.hidden_size
    assert vision is not None, "a configuration with a vision part has a vision tower"
    return [
        *vision_slots("vision_tower.vision_model.", vision),
        _norm("multi_modal_projector.mm_soft_emb_norm.weight", vision.hidden_size, "mm.soft_emb_norm.weight"),
        # Quantized, llama.cpp returns NaN for every embedding without an error.
        Slot(
            "multi_modal_projector.mm_input_projection_weight",
            (vision.hidden_size, hidden),
            "projection",
            "mm.input_projection.weight",
            keep="F16",
        ),
    ]


def _query_scale(text: TextConfig) -> float:
    """What queries are multiplied by in a GGUF file, whose reader divides them by the root of a number of its own.

    Transformers divides attention scores by sqrt(query_pre_attn_scalar). A GGUF file has no key for it: llama.cpp
    takes the width of a head, and for the 27B, which it knows by its 62 layers, the model's width over its heads.
    """
    heads_share = text.hidden_size // text.num_attention_heads
    assumed = heads_share if text.num_hidden_layers == 62 else text.head_dim
    return math.sqrt(assumed / text.query_pre_attn_scalar)


def _norm(name: str, width: int, gguf: str, scale: float = 1.0) -> Slot:
    return Slot(name, (width,), "norm", gguf, keep="F32", add_one=True, scale=scale)


def preprocessing(checkpoint: Checkpoint, config: MedGemmaConfig) -> Preprocessing | None:
    """Bilinear unless the checkpoint says otherwise; pan and scan is off in both published versions.

    None where the model sees no images.
    """
    if config.vision_config is None:
        return None
    return preprocessing_of(checkpoint, config.vision_config.image_size, default_resample=2)


def settings(checkpoint: Checkpoint, config: MedGemmaConfig) -> dict[str, Any]:
    """Token ids, context and image length: what `edgekit.inputs.prompt` needs to build segments."""
    generation = validate(_Generation, checkpoint.json("generation_config.json"), "generation_config.json")
    chat = checkpoint.chat_template() is not None
    eos = config.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
    if eos is None:  # <eos>, and where turns have an end, that
        eos = [1, 106] if chat else [1]
    image = {
        "image_tokens": config.mm_tokens_per_image,
        "image_token_id": config.image_token_index,
        "boi_token_id": config.boi_token_index,
        "eoi_token_id": config.eoi_token_index,
    }
    return {
        "context": config.text_config.max_position_embeddings,
        "window": config.text_config.sliding_window,
        "hidden": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        **(image if config.vision_config else {}),
        "chat": chat,
        "stop_token_ids": sorted([eos] if isinstance(eos, int) else eos),
    }


_DECODER = Role(
    ("gguf", "onnx"),
    decoder_slots,
    "logits",
    gguf_architecture="gemma3",
    onnx_stems=("decoder_model_merged", "embed_tokens"),
)

FAMILY = Family(
    name="medgemma",
    architecture="Gemma3ForConditionalGeneration",
    roles={
        "decoder": _DECODER,
        "vision": Role(
            ("gguf", "onnx"),
            vision_part_slots,
            "image_tokens",
            gguf_architecture="clip",
            onnx_stems=("vision_encoder",),
        ),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing,
    settings=settings,
    copies=dict.fromkeys(_HEADS, _EMBEDDING),
    synthesis=SYNTHESIS,
)

TEXT_ONLY = Family(
    name="medgemma-text",
    architecture="Gemma3ForCausalLM",
    roles={"decoder": _DECODER},
    parse=parse_text_only,
    canonical=canonical,
    preprocessing=preprocessing,
    settings=settings,
    copies=dict.fromkeys(_HEADS, _EMBEDDING),
    # All Gemma 3 models share one tokenizer; where there is no vision tower, the embedding ends before this token.
    unused_tokens=frozenset({"<image_soft_token>"}),
    synthesis=TEXT_ONLY_SYNTHESIS,
)
