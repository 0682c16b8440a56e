"""SigLIP's text format: texts to token ids of one length, as Hugging Face's tokenizer makes them."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from edgekit.families.composition import ContrastiveSettings, Ids
from edgekit.inputs.labels import ALL_LABELS, class_prompts
from edgekit.inputs.text import check_text

# SigLIP's canonical form has no ASCII punctuation. What SentencePiece drops or takes for a space goes first, too: it
# then trims both ends of a text, which a tokenizer.json does not.
_DROPPED = (*string.punctuation, *map(chr, (*range(1, 9), *range(0x0E, 0x1C), 0x7F, 0x8F, 0x9F)))
_SPACES = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
_CANONICAL = str.maketrans({**dict.fromkeys(_DROPPED), **dict.fromkeys(_SPACES, " ")})


def siglip_text(text: str) -> str:
    """SigLIP's canonical form: lower case, no ASCII punctuation, single spaces."""
    check_text(text)
    return " ".join(text.lower().translate(_CANONICAL).split())


def encode_siglip(tokenizer: Tokenizer, texts: Sequence[str], length: int, pad_id: int) -> Ids:
    """Ids [n, length] int64, cut to `length` with </s> last, padded with `pad_id`; the tower pools the last."""
    rows = np.full((len(texts), length), pad_id, np.int64)
    for row, ids in zip(rows, _uncut(tokenizer, texts), strict=True):
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        row[: len(ids)] = ids
    return rows


def text_lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """How many ids each text has, </s> among them, before `encode_siglip` cuts it."""
    return list(map(len, _uncut(tokenizer, texts)))


def _uncut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.encode(siglip_text(text), add_special_tokens=True).ids for text in texts]


def captions() -> tuple[str, ...]:
    """What people ask of images: the prompts of all labels."""
    return tuple(prompt for label in ALL_LABELS for prompt in class_prompts(label))


def text_ids(tokenizer: Tokenizer, settings: ContrastiveSettings, texts: Sequence[str]) -> Ids:
    """`encode_siglip` by a manifest's settings."""
    return encode_siglip(tokenizer, texts, settings.text_length, settings.pad_token_id)
