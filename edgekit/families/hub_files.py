"""Small files of a checkpoint in the Hugging Face hub's spelling, as far as the architectures share them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

AddedToken = dict[str, Any]  # one entry of tokenizer.json's `added_tokens`


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """A JSON file as transformers writes them."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def image_processor(size: int, resample: int, kind: str) -> dict[str, Any]:
    """preprocessor_config.json: resize to size x size pixels (`resample` 2 bilinear, 3 bicubic), scale to [-1, 1]."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": kind,
        "image_std": [0.5, 0.5, 0.5],
        "resample": resample,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": size, "width": size},
    }


def added_token(identity: int, content: str, *, special: bool = True, strip: bool = False) -> AddedToken:
    """A token that is split off before the vocabulary's own pieces are found."""
    return {
        "id": identity,
        "content": content,
        "single_word": False,
        "lstrip": strip,
        "rstrip": strip,
        "normalized": False,
        "special": special,
    }


def added_tokens_decoder(added: Iterable[AddedToken]) -> dict[str, Any]:
    """The same tokens as tokenizer_config.json spells them: by id."""
    return {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}


def special_tokens(named: Mapping[str, str], *, strip: bool) -> dict[str, Any]:
    """Entries of special_tokens_map.json, from their names (`eos_token`) to their texts."""
    flags = {"lstrip": strip, "normalized": False, "rstrip": strip, "single_word": False}
    return {name: {"content": content, **flags} for name, content in named.items()}
