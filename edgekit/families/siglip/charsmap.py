"""Where a tokenizer.json reads SentencePiece's table of characters differently than SentencePiece."""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Iterator

from tokenizers import Tokenizer

from edgekit.errors import InputError
from edgekit.inputs.charsmap import Table

# What joins the character before it beside marks (Unicode's category M): a joiner, Thai and Lao vowels, half-width
# voicing, and the vowels and ends of Korean syllables.
_JOINING = frozenset("\u200d\u0e33\u0eb3\uff9e\uff9f").union(map(chr, (*range(0x1160, 0x1200), *range(0xD7B0, 0xD800))))


def joined(tokenizer: Tokenizer, text: str) -> str:
    """A text in SigLIP's canonical form, its marks and their letters written so that a tokenizer.json keeps them.

    Of what a reader sees as one character, a tokenizer.json replaces the whole by what its table has for the shortest
    beginning of it, so that marks are lost: of a Vietnamese letter with two marks, of a micro sign with one.
    SentencePiece takes the longest match and goes on behind it; so does this, and leaves nothing to be matched again.

    Raises:
        InputError: what comes out of the table would not stay as it is: a capital, punctuation, a mark alone.
        CheckpointError: the table is damaged.
    """
    if text.isascii():
        return text
    return "".join(part if len(part) == 1 else _matched(tokenizer, part) for part in _characters(text))


def _characters(text: str) -> Iterator[str]:
    """What a reader sees as one: a character and the marks on it."""
    start = 0
    for at, c in enumerate(text):
        if at > start and (text[start].isspace() or not _joins(c)):
            yield text[start:at]
            start = at
    yield text[start:]


def _joins(c: str) -> bool:
    return c in _JOINING or unicodedata.category(c).startswith("M")


def _matched(tokenizer: Tokenizer, part: str) -> str:
    table = _table(tokenizer)
    if table is None:
        return part
    result = table.normalize(part)
    stays = result == result.lower() and not set(result) & set(string.punctuation) and table.normalize(result) == result
    if result != part and (not stays or (result and _joins(result[0]))):
        codes = " ".join(f"U+{ord(c):04X}" for c in part)
        raise InputError(f"the text has {part!r} ({codes}), which tokenizers read differently", remedy="remove it")
    return result


def _table(tokenizer: Tokenizer) -> Table | None:
    """None where a tokenizer has none: it then changes no character by a table."""
    if tokenizer.normalizer is None:
        return None
    state = json.loads(tokenizer.normalizer.__getstate__())
    for step in state.get("normalizers", [state]):
        if step["type"] == "Precompiled":
            return Table.read(step["precompiled_charsmap"])
    return None
