"""SentencePiece's table of characters, and where a tokenizer.json reads that table differently."""

from __future__ import annotations

import base64
import json
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from edgekit.errors import CheckpointError, InputError

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


@dataclass(frozen=True)
class _Table:
    """SentencePiece's precompiled_charsmap: a trie of UTF-8 (Darts-clone's double array) and what its leaves become.

    Source: https://github.com/google/sentencepiece, src/normalizer.cc, and Darts-clone's format of a unit: label in
    bits 0 to 7 and 31, a leaf's flag in 8, the offset's scale in 9, the offset from 10; a leaf's value has 31 bits.
    """

    units: tuple[int, ...]
    results: bytes

    def normalize(self, text: str) -> str:
        """A text by the longest matches. Raises CheckpointError where the table leads nowhere."""
        data, at, parts = text.encode(), 0, []
        try:
            while at < len(data):
                # A character that is not in the table stays.
                end, result = max(self._matches(data, at), default=(at + _width(data[at]), None))
                parts.append(data[at:end] if result is None else result)
                at = end
            return b"".join(parts).decode()
        except (IndexError, ValueError) as error:
            raise CheckpointError("the tokenizer's table of characters is damaged", remedy="fetch it anew") from error

    def _matches(self, data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """Where each entry ends that begins here, and what it becomes."""
        position = self._offset(0)
        for end in range(at, len(data)):
            position ^= data[end]
            if position >= len(self.units) or self.units[position] & 0x800000FF != data[end]:
                return
            leaf = self.units[position] & 0x100
            position ^= self._offset(position)
            if leaf:
                start = self.units[position] & 0x7FFFFFFF
                yield end + 1, self.results[start : self.results.index(0, start)]

    def _offset(self, position: int) -> int:
        unit = self.units[position]
        return (unit >> 10) << ((unit & 0x200) >> 6)


def _width(first: int) -> int:
    """How many bytes a character of UTF-8 has that begins with this one."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _table(tokenizer: Tokenizer) -> _Table | None:
    """None where a tokenizer has none: it then changes no character by a table."""
    if tokenizer.normalizer is None:
        return None
    state = json.loads(tokenizer.normalizer.__getstate__())
    for step in state.get("normalizers", [state]):
        if step["type"] == "Precompiled":
            return _read(step["precompiled_charsmap"])
    return None


@lru_cache(maxsize=4)
def _read(encoded: str) -> _Table:
    data = base64.b64decode(encoded)
    size = int.from_bytes(data[:4], "little") // 4
    return _Table(tuple(np.frombuffer(data, "<u4", size, 4).tolist()), data[4 + 4 * size :])
