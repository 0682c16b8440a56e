"""SigLIP's tokenizer in both spellings: SentencePiece's model, and Hugging Face's files with equal ids."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit.families.hub_files import AddedToken, added_token, added_tokens_decoder, special_tokens, write_json

_NAMED = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}


def write(folder: Path, spiece: bytes, extra: Mapping[str, Any] | None = None) -> None:
    """Write all files of a tokenizer from its SentencePiece model; `extra` are keys of tokenizer_config.json."""
    (folder / "spiece.model").write_bytes(spiece)
    write_json(folder / "tokenizer.json", tokenizer_json(spiece))
    write_json(folder / "special_tokens_map.json", special_tokens(_NAMED, strip=True))
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": added_tokens_decoder(_added_tokens()[1:]),
            "additional_special_tokens": [],
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "model_input_names": ["input_ids"],
            "model_max_length": 64,
            **_NAMED,
            "processor_class": "SiglipProcessor",
            "sp_model_kwargs": {},
            "tokenizer_class": "SiglipTokenizer",
            **(extra or {}),
        },
    )


def _added_tokens() -> list[AddedToken]:
    """`<pad>` exists in the vocabulary, but padding is done with `</s>`, as in SigLIP."""
    return [added_token(0, "<pad>"), added_token(1, "</s>", strip=True), added_token(2, "<unk>", strip=True)]


def tokenizer_json(spiece: bytes) -> dict[str, Any]:
    """tokenizer.json with the ids of a SentencePiece unigram model, `</s>` appended."""
    model = proto.ModelProto()
    model.ParseFromString(spiece)
    punctuation = r"[!\"\#\$%\&'\(\)\*\+,\-\.:;=\?@\[\\\]\^_`\{\|\}\~]"
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode("ascii")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": punctuation}, "content": ""},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[piece.piece, piece.score] for piece in model.pieces],
            "byte_fallback": model.trainer_spec.byte_fallback,
        },
    }
