"""Gemma 3's config.json, with a vision tower and without, checked before any library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgekit.errors import CheckpointError
from edgekit.families.base import Config, Count, TokenId, validate
from edgekit.families.gemma3.layers import is_global
from edgekit.families.siglip.tower import VisionConfig

# All Gemma 3 models share one tokenizer; where there is no vision tower, the embedding ends before this token.
UNUSED_WITHOUT_VISION = frozenset({"<image_soft_token>"})


class GemmaTextConfig(Config):
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

    text_config: GemmaTextConfig
    vision_config: VisionConfig | None = None
    mm_tokens_per_image: int = Field(default=256, gt=0, le=65_536)
    boi_token_index: TokenId = 255_999
    eoi_token_index: TokenId = 256_000
    image_token_index: TokenId = 262_144
    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: bool = True


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
    tie_word_embeddings: bool = True


def parse_text_only(config: Mapping[str, Any]) -> MedGemmaConfig:
    """Validate a flat config.json."""
    text, rest = validate(GemmaTextConfig, config, "config.json"), validate(_TextOnly, config, "config.json")
    _check_layers(config, text.num_hidden_layers)
    return MedGemmaConfig(text_config=text, **rest.model_dump())


def _check_layers(text: Mapping[str, Any], count: int) -> None:
    """llama.cpp hard-wires which layers are global, so a file with another pattern would be fluent and wrong."""
    expected = ["full_attention" if is_global(i) else "sliding_attention" for i in range(count)]
    patterns = [text.get(key, 6) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
    if patterns != [6, 6] or text.get("layer_types") not in (None, expected):
        raise CheckpointError("config.json: layers are not 5 local : 1 global", allowed="every sixth layer global")
