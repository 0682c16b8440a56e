"""SigLIP's text format: texts to token ids of one length, as Hugging Face's tokenizer makes them."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from edgekit.errors import InputError
from edgekit.families.composition import ContrastiveSettings, Ids
from edgekit.families.siglip.charsmap import joined
from edgekit.inputs.labels import ALL_LABELS, class_prompts
from edgekit.inputs.text import check_text, control_tokens

# SigLIP's canonical form has no ASCII punctuation. What SentencePiece drops or takes for a space goes first, too: it
# then trims both ends of a text, which a tokenizer.json does not.
_DROPPED = (*string.punctuation, *map(chr, (*range(1, 9), *range(0x0E, 0x1C), 0x7F, 0x8F, 0x9F)))
_SPACES = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
_CANONICAL = str.maketrans({**dict.fromkeys(_DROPPED), **dict.fromkeys(_SPACES, " ")})
# Pieces that no text may spell. Normalization turns a full-width form into `</s>` after punctuation was dropped and
# tokens were split off, and a tokenizer.json, unlike SentencePiece, then finds that among its pieces.
_RESERVED = re.compile(r"<(?:pad|/s|unk|0x[0-9A-Fa-f]{2})>")


def siglip_text(text: str) -> str:
    """SigLIP's canonical form: lower case, no ASCII punctuation, single spaces."""
    check_text(text)
    return " ".join(text.lower().translate(_CANONICAL).split())


def encode_siglip(tokenizer: Tokenizer, texts: Sequence[str], length: int, pad_id: int) -> Ids:
    """Ids [n, length] int64, cut to `length` with </s> last, padded with `pad_id`; the tower pools the last.

    Raises:
        InputError: a text gives a control token, or has a character that tokenizers read differently.
    """
    rows = np.full((len(texts), length), pad_id, np.int64)
    for row, ids in zip(rows, _uncut(tokenizer, texts), strict=True):
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        row[: len(ids)] = ids
    return rows


def text_lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """How many ids each text has, </s> among them, before `encode_siglip` cuts it; raises InputError likewise."""
    return list(map(len, _uncut(tokenizer, texts)))


def _uncut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    control = _control(tokenizer)
    return [_checked_ids(tokenizer, joined(tokenizer, siglip_text(text)), control) for text in texts]


def _control(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that no text may give, whatever a tokenizer's file says of them. What is unknown may stand anywhere."""
    ids = (tokenizer.token_to_id(token) for token in (*control_tokens(tokenizer), "<pad>", "</s>"))
    unknown = getattr(tokenizer.model, "unk_id", None)
    return frozenset(index for index in ids if index is not None and index != unknown)


def _checked_ids(tokenizer: Tokenizer, text: str, control: frozenset[int]) -> list[int]:
    """Ids of a text in its canonical form. Raises InputError where it gives a control token."""
    normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    encoding = tokenizer.encode(text, add_special_tokens=True)
    pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)  # the mask: appended, not out of the text
    given = next((tokenizer.id_to_token(index) for index, appended in pairs if index in control and not appended), None)
    spelled = _RESERVED.search(normalized)
    if given or spelled:
        token = given or (spelled and spelled[0])
        raise InputError(f"the text contains the control token {token}, once normalized", remedy="remove it")
    return list(encoding.ids)


def captions() -> tuple[str, ...]:
    """What people ask of images: the prompts of all labels."""
    return tuple(prompt for label in ALL_LABELS for prompt in class_prompts(label))


def text_ids(tokenizer: Tokenizer, settings: ContrastiveSettings, texts: Sequence[str]) -> Ids:
    """`encode_siglip` by a manifest's settings."""
    return encode_siglip(tokenizer, texts, settings.text_length, settings.pad_token_id)
