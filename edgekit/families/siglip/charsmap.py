"""SentencePiece's table of characters, and where a tokenizer.json reads that table differently."""

from __future__ import annotations

import base64
import json
import string
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from edgekit.errors import InputError

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
    """
    if text.isascii():
        return text
    return "".join(part if len(part) == 1 else _matched(tokenizer, part) for part in _characters(text))


def _characters(text: str) -> list[str]:
    """What a reader sees as one: a character and the marks on it."""
    found: list[str] = []
    for c in text:
        if found and not found[-1].isspace() and _joins(c):
            found[-1] += c
        else:
            found.append(c)
    return found


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
        data, at, out = text.encode(), 0, b""
        while at < len(data):
            length, result = max(self._matches(data, at), default=(0, b""))
            if not length:  # a character that is not in the table stays
                length = _width(data[at])
                result = data[at : at + length]
            out, at = out + result, at + length
        return out.decode()

    def _matches(self, data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """How long each entry is that begins here, and what it becomes."""
        position = self._offset(0)
        for length, byte in enumerate(data[at:], 1):
            position ^= byte
            unit = self.units[position] if position < len(self.units) else 0
            if unit & 0x800000FF != byte:
                return
            position ^= self._offset(position)
            if unit & 0x100:
                start = self.units[position] & 0x7FFFFFFF
                yield length, self.results[start : self.results.index(0, start)]

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
    (size,) = struct.unpack_from("<I", data)
    return _Table(struct.unpack_from(f"<{size // 4}I", data, 4), data[4 + size :])
