"""SigLIP's text format: texts to token ids of one length, as Hugging Face's tokenizer makes them."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from edgekit.errors import InputError
from edgekit.families.composition import ContrastiveSettings, Ids
from edgekit.inputs.labels import ALL_LABELS, class_prompts
from edgekit.inputs.text import check_text, control_tokens

# SigLIP's canonical form has no ASCII punctuation. What SentencePiece drops or takes for a space goes first, too: it
# then trims both ends of a text, which a tokenizer.json does not.
_DROPPED = (*string.punctuation, *map(chr, (*range(1, 9), *range(0x0E, 0x1C), 0x7F, 0x8F, 0x9F)))
_SPACES = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
_CANONICAL = str.maketrans({**dict.fromkeys(_DROPPED), **dict.fromkeys(_SPACES, " ")})
_MARKERS = ("<pad>", "</s>", "<unk>")  # whatever a tokenizer's file says of them
_NEVER = -1e5  # a log probability


def siglip_text(text: str) -> str:
    """SigLIP's canonical form: lower case, no ASCII punctuation, single spaces."""
    check_text(text)
    return " ".join(text.lower().translate(_CANONICAL).split())


def encode_siglip(tokenizer: Tokenizer, texts: Sequence[str], length: int, pad_id: int) -> Ids:
    """Ids [n, length] int64, cut to `length` with </s> last, padded with `pad_id`; the tower pools the last.

    Raises:
        InputError: a text gives a control token.
    """
    rows = np.full((len(texts), length), pad_id, np.int64)
    plain, control = _plain(tokenizer)
    for row, text in zip(rows, texts, strict=True):
        encoding = plain.encode(siglip_text(text), add_special_tokens=True)
        ids = encoding.ids
        for index, appended in zip(ids, encoding.special_tokens_mask, strict=True):
            if index in control and not appended:
                raise InputError(f"the text contains the control token {plain.id_to_token(index)}", remedy="remove it")
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        row[: len(ids)] = ids
    return rows


class _Plain(NamedTuple):
    tokenizer: Tokenizer
    control: frozenset[int]


@lru_cache(maxsize=4)
def _plain(tokenizer: Tokenizer) -> _Plain:
    """A tokenizer that reads control tokens as plain pieces, as SentencePiece does, and the ids that no text may give.

    Normalization turns a full-width form into `</s>` after tokens were split off, and a tokenizer.json has that among
    its pieces. What is unknown may stand anywhere.
    """
    tokens = {*control_tokens(tokenizer), *_MARKERS}
    file = json.loads(tokenizer.to_str())
    model = file["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [[piece, _NEVER if piece in tokens else score] for piece, score in model["vocab"]]
        tokenizer = Tokenizer.from_str(json.dumps(file))
    ids = {index for token in tokens if (index := tokenizer.token_to_id(token)) is not None}
    return _Plain(tokenizer, frozenset(ids - {model.get("unk_id")}))


def captions() -> tuple[str, ...]:
    """What people ask of images: the prompts of all labels."""
    return tuple(prompt for label in ALL_LABELS for prompt in class_prompts(label))


def text_ids(tokenizer: Tokenizer, settings: ContrastiveSettings, texts: Sequence[str]) -> Ids:
    """`encode_siglip` by a manifest's settings."""
    return encode_siglip(tokenizer, texts, settings.text_length, settings.pad_token_id)
