"""The compiled normalization of a SentencePiece model: `precompiled_charsmap`, checked before anything follows it.

Four bytes of length, a double array (Darts) of 32-bit units, and the texts that it leads to, each ended by a zero. The
library follows units without looking where they lead, so every unit that any text can reach is looked at here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError

_MAX_BYTES = 1 << 20  # the real ones have 240 kB
_MAX_REPLACEMENT = 64  # bytes; the longest that NFKC has is 33
_TOGETHER = 128  # positions that are followed in one step
_BLOCK = 256  # the next byte of a text is xor-ed into a position

Units = NDArray[np.uint32]


def check_charsmap(encoded: str) -> None:
    """Check a charsmap in base64.

    Raises:
        ValueError: it is cut short or too long, leads out of itself, or replaces a character by a long text.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"no base64: {error}") from error
    if not 4 < len(data) <= _MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, and 5 to {_MAX_BYTES} are possible")
    size = int.from_bytes(data[:4], "little")
    if not size or size % (4 * _BLOCK) or size > len(data) - 4:
        raise ValueError(f"an array of {size} bytes in {len(data)}")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"texts that are not UTF-8: {error}") from error
    if max(map(len, texts.split(b"\0"))) > _MAX_REPLACEMENT:
        raise ValueError(f"a character becomes more than {_MAX_REPLACEMENT} bytes")
    starts = _starts(np.frombuffer(data, "<u4", size // 4, 4))
    text = np.frombuffer(texts, np.uint8)
    if len(starts) and (starts.max() >= len(text) or (text[starts] & 0xC0 == 0x80).any()):
        raise ValueError("a character leads to no text")


@dataclass(frozen=True)
class Table:
    """A charsmap as SentencePiece follows it: a trie of UTF-8 and what its leaves become.

    Source: https://github.com/google/sentencepiece, src/normalizer.cc, and Darts-clone's format of a unit: label in
    bits 0 to 7 and 31, a leaf's flag in 8, the offset's scale in 9, the offset from 10; a leaf's value has 31 bits.
    """

    units: tuple[int, ...]
    results: bytes

    @staticmethod
    @lru_cache(maxsize=4)
    def read(encoded: str) -> Table:
        """The table of a charsmap in base64 that `check_charsmap` has passed."""
        data = base64.b64decode(encoded)
        size = int.from_bytes(data[:4], "little") // 4
        return Table(tuple(np.frombuffer(data, "<u4", size, 4).tolist()), data[4 + 4 * size :])

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


def _starts(units: Units) -> Units:
    """Where the texts begin to which the array leads, from its root on."""
    found = [np.empty(0, np.uint32)]
    pending = _inside(_offset(units[:1]), units)
    seen = np.zeros(len(units), bool)
    byte = np.arange(1, _BLOCK, dtype=np.uint32)  # a zero ends a text
    while len(pending):
        bases, pending = pending[:_TOGETHER], pending[_TOGETHER:]
        children = bases[:, None] ^ byte  # a whole number of blocks: inside of the array as their base is
        children = children[units[children] & 0x8000_00FF == byte]
        following = _inside(children ^ _offset(units[children]), units)
        found.append(units[following[units[children] >> 8 & 1 == 1]] & 0x7FFF_FFFF)
        new = np.unique(following[~seen[following]])
        seen[new] = True
        pending = np.concatenate([pending, new])
    return np.concatenate(found)


def _inside(positions: NDArray[Any], units: Units) -> Units:
    if len(positions) and positions.max() >= len(units):
        raise ValueError("its array leads out of itself")
    return np.asarray(positions, np.uint32)


def _offset(units: Units) -> Units:
    return np.asarray((units >> 10) << ((units & 0x200) >> 6), np.uint32)
