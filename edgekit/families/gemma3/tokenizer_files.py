"""Gemma 3's tokenizer in both spellings: SentencePiece's model, and Hugging Face's files with equal ids.

llama.cpp's converter reads the first, transformers and the web the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit.families.gemma3.chat import NAMED_TOKENS, chat_template
from edgekit.families.hub_files import AddedToken, added_tokens_decoder, special_tokens, write_json

IMAGE_TOKEN = "<image_soft_token>"  # noqa: S105
_NORMAL = proto.ModelProto.SentencePiece.Type.NORMAL


def write(
    folder: Path,
    spiece: bytes,
    added: Sequence[AddedToken],
    extra: Mapping[str, Any] | None = None,
    indent: int | None = 2,
) -> None:
    """Write all files of a tokenizer from its SentencePiece model.

    Args:
        added: tokens that are split off before BPE. Without an image token among them, the model sees no images.
        extra: further keys of tokenizer_config.json.
        indent: of tokenizer.json.
    """
    ids = {token["content"]: token["id"] for token in added}
    image = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": IMAGE_TOKEN}
    image = image if IMAGE_TOKEN in ids else {}
    template = chat_template()
    (folder / "tokenizer.model").write_bytes(spiece)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer.json", tokenizer_json(spiece, added), indent)
    if image:
        write_json(folder / "added_tokens.json", {IMAGE_TOKEN: ids[IMAGE_TOKEN]})
    write_json(folder / "special_tokens_map.json", {**image, **special_tokens(NAMED_TOKENS, strip=False)})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": added_tokens_decoder(added),
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": image,
            **image,
            **NAMED_TOKENS,
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": "Gemma3Processor",
            "sp_model_kwargs": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "use_default_system_prompt": False,
            **(extra or {}),
        },
    )


def tokenizer_json(spiece: bytes, added: Sequence[AddedToken]) -> dict[str, Any]:
    """tokenizer.json with the ids of a SentencePiece BPE model and of the tokens that are `added` to it."""
    model = proto.ModelProto()
    model.ParseFromString(spiece)
    ids = {token["content"]: token["id"] for token in added}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [{"SpecialToken": {"id": "<bos>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, *pair],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [ids["<bos>"]], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.piece: i for i, piece in enumerate(model.pieces)} | ids,
            "merges": _merges(model),
        },
    }


def _merges(model: proto.ModelProto) -> list[list[str]]:
    """BPE merges in the order in which SentencePiece prefers them: by piece, and every way to split that piece."""
    ids = {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == _NORMAL}
    merges = []
    for piece in sorted((p for p in model.pieces if p.type == _NORMAL), key=lambda p: -p.score):
        text = piece.piece
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
        merges += [list(pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return merges
