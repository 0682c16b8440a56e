"""Writes a model as a folder in the Hugging Face hub's layout: the files, key names and spellings of the real models.

transformers 5 saves other key names and another RoPE spelling; edgekit must read the hub's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import AutoConfig, Gemma3ForConditionalGeneration, SiglipModel

from edgekit.families.gemma3 import tokenizer_files as gemma_tokenizer
from edgekit.families.hub_files import write_json
from edgekit.families.siglip import tokenizer_files as siglip_tokenizer
from edgekit.reference_models.training import architecture, tokenizers

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


def _write_weights(folder: Path, model: torch.nn.Module) -> None:
    tensors = {name: value for key, value in model.state_dict().items() if (name := hub_key(key))}
    stored = {name: tensors[name].detach().to(torch.bfloat16).contiguous() for name in sorted(tensors)}
    (folder / "model.safetensors").write_bytes(save(stored, metadata={"format": "pt"}))


def write_gemma(folder: Path, model: torch.nn.Module, spiece: bytes) -> None:
    """Write a Gemma3ForConditionalGeneration in bf16 with its SentencePiece model `spiece`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", architecture.GEMMA_CONFIG)
    write_json(folder / "generation_config.json", architecture.GEMMA_GENERATION)
    write_json(folder / "preprocessor_config.json", architecture.GEMMA_PREPROCESSOR)
    processor = {"image_seq_length": architecture.IMAGE_TOKENS, "processor_class": "Gemma3Processor"}
    write_json(folder / "processor_config.json", processor)
    gemma_tokenizer.write(folder, spiece, tokenizers.gemma_added_tokens())
    _write_weights(folder, model)


def write_siglip(folder: Path, model: torch.nn.Module, spiece: bytes) -> None:
    """Write a SiglipModel in bf16 with its SentencePiece model `spiece`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", architecture.SIGLIP_CONFIG)
    write_json(folder / "preprocessor_config.json", architecture.SIGLIP_PREPROCESSOR)
    siglip_tokenizer.write(folder, spiece)
    _write_weights(folder, model)
