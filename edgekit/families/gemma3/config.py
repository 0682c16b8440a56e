"""Gemma 3's config.json, with a vision tower and without, checked before any library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgekit.errors import CheckpointError
from edgekit.families.base import Count, ModelConfig, TokenId, validate
from edgekit.families.gemma3.layers import layer_types
from edgekit.families.gemma3.rope import KEYS, rope_fields
from edgekit.families.siglip.tower import VisionConfig

# All Gemma 3 models share one tokenizer; where there is no vision tower, the embedding ends before this token.
UNUSED_WITHOUT_VISION = frozenset({"<image_soft_token>"})


class GemmaTextConfig(ModelConfig):
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
    rope_type: Literal["default", "linear"] = "default"
    rope_factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, data: Any) -> Any:
        """Every spelling becomes the one of the fields here."""
        if not isinstance(data, dict):
            return data
        activation = data.get("hidden_activation", "gelu_pytorch_tanh")
        if data.get("hidden_act") not in (None, activation):
            raise ValueError(
                f"two answers: hidden_act is {data['hidden_act']!r:.40}, hidden_activation is {activation!r:.40}"
            )
        own = (*KEYS, "rope_type", "rope_factor")
        return {**{key: value for key, value in data.items() if key not in own}, **rope_fields(data)}

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"{self.num_attention_heads} heads with {self.num_key_value_heads} num_key_value_heads")
        return self


class MedGemmaConfig(ModelConfig):
    """config.json of Gemma3ForConditionalGeneration, or of Gemma3ForCausalLM, which has no vision tower."""

    text_config: GemmaTextConfig
    vision_config: VisionConfig | None = None
    mm_tokens_per_image: int = Field(default=256, gt=0, le=65_536)
    boi_token_index: TokenId = 255_999
    eoi_token_index: TokenId = 256_000
    image_token_index: TokenId = 262_144
    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: bool = True


def parse(config: Mapping[str, Any]) -> MedGemmaConfig:
    """Validate config.json."""
    renamed = dict(config)
    for newer in ("boi_token_id", "eoi_token_id", "image_token_id"):  # as transformers 5 writes them
        if newer in renamed:
            older, value = f"{newer[:-3]}_index", renamed.pop(newer)
            if renamed.setdefault(older, value) != value:
                raise _two_answers(older, renamed[older], newer, value)
    parsed = validate(MedGemmaConfig, renamed, "config.json")
    if parsed.vision_config is None:
        raise CheckpointError(
            "config.json: vision_config: Gemma3ForConditionalGeneration has a vision tower, and none is described",
            allowed="architecture Gemma3ForCausalLM for a model of text alone",
        )
    text = config["text_config"]
    of_text, of_all = text.get("tie_word_embeddings"), parsed.tie_word_embeddings
    if of_text not in (None, of_all):
        raise _two_answers("text_config.tie_word_embeddings", of_text, "tie_word_embeddings", of_all)
    _check_layers(text, parsed.text_config.num_hidden_layers)
    return parsed


def _two_answers(one: str, first: Any, other: str, second: Any) -> CheckpointError:
    return CheckpointError(
        f"config.json: two answers: {one} is {first!r:.40}, {other} is {second!r:.40}",
        allowed="one of them, or the same value",
    )


class _TextOnly(ModelConfig):
    """What config.json of Gemma3ForCausalLM says beside the fields of its text model, on one level with them."""

    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: bool = True


def parse_text_only(config: Mapping[str, Any]) -> MedGemmaConfig:
    """Validate a flat config.json."""
    text, rest = validate(GemmaTextConfig, config, "config.json"), validate(_TextOnly, config, "config.json")
    _check_layers(config, text.num_hidden_layers)
    return MedGemmaConfig(text_config=text, **rest.model_dump())


def _check_layers(text: Mapping[str, Any], count: int) -> None:
    """llama.cpp hard-wires which layers are global, so a file with another pattern would be fluent and wrong."""
    patterns = [text.get(key, 6) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
    if patterns != [6, 6] or text.get("layer_types") not in (None, layer_types(count)):
        raise CheckpointError("config.json: layers are not 5 local : 1 global", allowed="every sixth layer global")


def numbers(config: MedGemmaConfig) -> dict[str, float]:
    """What the layers compute with beside their weights, as far as a GGUF file states it, by config.json's names."""
    names = ("rope_theta", "rope_local_base_freq", "rope_factor", "rms_norm_eps")
    found: dict[str, float] = {name: getattr(config.text_config, name) for name in names}
    return found | ({"layer_norm_eps": config.vision_config.layer_norm_eps} if config.vision_config else {})
