"""Writes a model as a folder in the Hugging Face hub's layout: the files, key names and spellings of the real models.

transformers 5 saves other key names and another RoPE spelling; edgekit must read the hub's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import AutoConfig, Gemma3ForConditionalGeneration, SiglipModel

from edgekit.reference import architecture, tokenizers

# (prefix in transformers 5, prefix on the hub); lm_head is tied to the embedding and not stored.
_GEMMA_KEYS = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def build(config: Mapping[str, Any]) -> Gemma3ForConditionalGeneration | SiglipModel:
    """A float32 model with fresh weights for one of the configurations of `architecture`."""
    kind = Gemma3ForConditionalGeneration if config["model_type"] == "gemma3" else SiglipModel
    settings = {key: value for key, value in config.items() if key not in ("torch_dtype", "transformers_version")}
    return kind(AutoConfig.for_model(**settings)).float().eval()


def hub_key(key: str) -> str | None:
    """The hub's name of a tensor that transformers 5 calls `key`; None for one that the hub does not store."""
    if key == "lm_head.weight":
        return None
    for ours, hub in _GEMMA_KEYS:
        if key.startswith(ours):
            return hub + key.removeprefix(ours)
    return key


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(folder: Path, model: torch.nn.Module) -> None:
    tensors = {name: value for key, value in model.state_dict().items() if (name := hub_key(key))}
    stored = {name: tensors[name].detach().to(torch.bfloat16).contiguous() for name in sorted(tensors)}
    (folder / "model.safetensors").write_bytes(save(stored, metadata={"format": "pt"}))


def _token_map(named: Mapping[str, str], *, strip: bool) -> dict[str, Any]:
    flags = {"lstrip": strip, "normalized": False, "rstrip": strip, "single_word": False}
    return {key: {"content": content, **flags} for key, content in named.items()}


def _decoder_map(added: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}


def _write_gemma_tokenizer(folder: Path, spiece: bytes) -> None:
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    image = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": tokenizers.IMAGE_TOKEN}
    template = files("edgekit.reference").joinpath("gemma.jinja").read_text(encoding="utf-8").rstrip("\n")
    (folder / "tokenizer.model").write_bytes(spiece)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_json(folder / "tokenizer.json", tokenizers.gemma_json(spiece))
    _write_json(folder / "added_tokens.json", {tokenizers.IMAGE_TOKEN: architecture.IMAGE_TOKEN})
    _write_json(folder / "special_tokens_map.json", {**image, **_token_map(named, strip=False)})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": _decoder_map(tokenizers.gemma_added_tokens()),
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": image,
            **image,
            **named,
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": "Gemma3Processor",
            "sp_model_kwargs": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "use_default_system_prompt": False,
        },
    )


def _write_siglip_tokenizer(folder: Path, spiece: bytes) -> None:
    named = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "spiece.model").write_bytes(spiece)
    _write_json(folder / "tokenizer.json", tokenizers.siglip_json(spiece))
    _write_json(folder / "special_tokens_map.json", _token_map(named, strip=True))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": _decoder_map(tokenizers.siglip_added_tokens()[1:]),
            "additional_special_tokens": [],
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "model_input_names": ["input_ids"],
            "model_max_length": 64,
            **named,
            "processor_class": "SiglipProcessor",
            "sp_model_kwargs": {},
            "tokenizer_class": "SiglipTokenizer",
        },
    )


def write_gemma(folder: Path, model: torch.nn.Module, spiece: bytes) -> None:
    """Write a Gemma3ForConditionalGeneration in bf16 with its SentencePiece model `spiece`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", architecture.GEMMA_CONFIG)
    _write_json(folder / "generation_config.json", architecture.GEMMA_GENERATION)
    _write_json(folder / "preprocessor_config.json", architecture.GEMMA_PREPROCESSOR)
    processor = {"image_seq_length": architecture.IMAGE_TOKENS, "processor_class": "Gemma3Processor"}
    _write_json(folder / "processor_config.json", processor)
    _write_gemma_tokenizer(folder, spiece)
    _write_weights(folder, model)


def write_siglip(folder: Path, model: torch.nn.Module, spiece: bytes) -> None:
    """Write a SiglipModel in bf16 with its SentencePiece model `spiece`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", architecture.SIGLIP_CONFIG)
    _write_json(folder / "preprocessor_config.json", architecture.SIGLIP_PREPROCESSOR)
    _write_siglip_tokenizer(folder, spiece)
    _write_weights(folder, model)
