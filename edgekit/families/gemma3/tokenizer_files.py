"""Writes a tokenizer as the files and spellings that the Hugging Face hub has for Gemma 3 and SigLIP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit.reference_models.training import tokenizers

Added = list[dict[str, Any]]


def chat_template() -> str:
    """Gemma 3's turns as a jinja template."""
    return files("edgekit.families.gemma3").joinpath("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """A JSON file as transformers writes them."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_gemma(
    folder: Path, spiece: bytes, added: Added, extra: Mapping[str, Any] | None = None, indent: int | None = 2
) -> None:
    """A Gemma 3 tokenizer from its SentencePiece model.

    Args:
        added: tokens that are split off before BPE. Without an image token among them, the model sees no images.
        extra: further keys of tokenizer_config.json.
        indent: of tokenizer.json.
    """
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ids = {token["content"]: token["id"] for token in added}
    image = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": tokenizers.IMAGE_TOKEN}
    image = image if tokenizers.IMAGE_TOKEN in ids else {}
    template = chat_template()
    (folder / "tokenizer.model").write_bytes(spiece)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer.json", tokenizers.gemma_json(spiece, added), indent)
    if image:
        write_json(folder / "added_tokens.json", {tokenizers.IMAGE_TOKEN: ids[tokenizers.IMAGE_TOKEN]})
    write_json(folder / "special_tokens_map.json", {**image, **_token_map(named, strip=False)})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": _decoder_map(added),
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
            **(extra or {}),
        },
    )


def write_siglip(folder: Path, spiece: bytes, extra: Mapping[str, Any] | None = None) -> None:
    """A SigLIP tokenizer from its SentencePiece model; `extra` are further keys of tokenizer_config.json."""
    named = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "spiece.model").write_bytes(spiece)
    write_json(folder / "tokenizer.json", tokenizers.siglip_json(spiece))
    write_json(folder / "special_tokens_map.json", _token_map(named, strip=True))
    write_json(
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
            **(extra or {}),
        },
    )


def _token_map(named: Mapping[str, str], *, strip: bool) -> dict[str, Any]:
    flags = {"lstrip": strip, "normalized": False, "rstrip": strip, "single_word": False}
    return {key: {"content": content, **flags} for key, content in named.items()}


def _decoder_map(added: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
