"""What a wrong key of a Gemma 3 GGUF file does to answers, for people who have such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TURNS = "llama.cpp's own programs write other turns than the model was trained on"
_IMAGE = "every picture is seen otherwise than the model was trained to"
_LAYERS = "layers compute something else"

_MEANINGS: Mapping[str, str] = {
    "gemma3.rope.freq_base": "global layers see positions turned at another rate: long texts are read wrongly",
    "gemma3.rope.freq_base_swa": "local layers see positions turned at another rate",
    "gemma3.rope.scaling.type": "global layers see positions at other distances: long texts are read wrongly",
    "gemma3.rope.scaling.factor": "global layers see positions at other distances: long texts are read wrongly",
    "gemma3.attention.sliding_window": "local layers see more or less of a long text than they were trained on",
    "gemma3.attention.sliding_window_pattern": "other layers see the whole text than were trained to",
    "gemma3.attention.layer_norm_rms_epsilon": "every norm divides by another number, most where values are small",
    "gemma3.attention.head_count": _LAYERS,
    "gemma3.attention.head_count_kv": _LAYERS,
    "gemma3.attention.key_length": _LAYERS,
    "gemma3.attention.value_length": _LAYERS,
    "gemma3.block_count": "layers are missing, or too many",
    "gemma3.context_length": "programs cut long texts elsewhere, or go beyond what the model was trained on",
    "gemma3.final_logit_softcapping": "probabilities of answers are flattened",
    "gemma3.attn_logit_softcapping": "attention is flattened",
    "tokenizer.ggml.model": "texts are cut into other tokens",
    "tokenizer.ggml.pre": "texts are cut into other tokens",
    "tokenizer.ggml.tokens": "ids stand for other texts",
    "tokenizer.ggml.scores": "texts are cut into other tokens",
    "tokenizer.ggml.token_type": "control tokens are read as text, or a user's text as control tokens",
    "tokenizer.ggml.bos_token_id": "prompts begin with another token",
    "tokenizer.ggml.add_bos_token": "prompts begin without the token that every text began with, or with two",
    "tokenizer.ggml.add_eos_token": "prompts end with the token that ends a text",
    "tokenizer.ggml.add_space_prefix": "every text begins with a space",
    "tokenizer.ggml.eos_token_id": "answers do not end, or end early",
    "tokenizer.ggml.eot_token_id": "answers do not end, or end early",
    "tokenizer.ggml.unknown_token_id": "characters that no token has become another token",
    "tokenizer.chat_template": _TURNS,
    "clip.vision.image_mean": f"{_IMAGE}: brighter or darker",
    "clip.vision.image_std": f"{_IMAGE}: with more or less contrast",
    "clip.vision.image_size": _IMAGE,
    "clip.vision.patch_size": _IMAGE,
    "clip.vision.projector.scale_factor": "other patches are pooled, to another number of tokens",
    "clip.vision.attention.layer_norm_epsilon": "every norm of the vision tower divides by another number",
    "clip.vision.attention.head_count": _LAYERS,
    "clip.vision.feed_forward_length": _LAYERS,
    "clip.use_gelu": "the vision tower's layers bend their values otherwise",
    "clip.use_silu": "the vision tower's layers bend their values otherwise",
}


def meaning(key: str, found: Any, expected: Any) -> str:
    """What it does to answers that a key has another value than the checkpoint, or none; empty where nobody knows.

    Args:
        found, expected: None for a key that is not there.
    """
    if key == "gemma3.rope.scaling.factor":
        times = _number(expected) / _number(found)
        return f"global layers see positions {times:.3g} times as far apart as they were trained on"
    return _MEANINGS.get(key, "")


def _number(value: Any) -> float:
    """A scaling factor; one that is not stated is 1."""
    return float(value) if isinstance(value, int | float) and value > 0 else 1.0
