"""Text as its tokens come: a character once all of its bytes are there, and nothing that may become a stop text.

What the vocabulary has no token for is written byte by byte. Those tokens are read here: the library reads a run of
them together, so that a broken end would change characters that were shown, and it raises an error where it notices.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UTF8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """What the tokens of an answer say, at a cost that does not grow with their number.

    Attributes:
        stopped: the stop text that ended it; None as long as none did.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._decoded = DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []  # tokens since the library gave a text
        self._bytes = _UTF8(errors="replace")
        self._held = ""  # what may be the beginning of a stop text
        self._parts: list[str] = []
        self.stopped: str | None = None

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._parts)

    def add(self, token: int) -> str:
        """What can be shown with this token, mostly a word, sometimes nothing."""
        byte = _BYTE.fullmatch(self._tokenizer.id_to_token(token) or "")
        if byte:
            return self._given(self._rest() + self._bytes.decode(bytes.fromhex(byte[1])))
        self._pending.append(token)
        piece = self._decoded.step(self._tokenizer, token)
        if piece is not None:
            self._pending.clear()
        return self._given(self._bytes.decode(b"", final=True) + (piece or ""))

    def finish(self) -> str:
        """What is left when no token comes any more: a character that misses bytes, and what only began a stop text."""
        if self.stopped is not None:
            return ""
        piece = self._given(self._rest() + self._bytes.decode(b"", final=True))
        if self.stopped is None:
            self._parts.append(self._held)  # what only began a stop text
            piece, self._held = piece + self._held, ""
        return piece

    def _rest(self) -> str:
        """What the library keeps until more comes, which does not."""
        if not self._pending:
            return ""
        pending, self._pending, self._decoded = self._pending, [], DecodeStream(skip_special_tokens=True)
        return str(self._tokenizer.decode(pending, skip_special_tokens=True))

    def _given(self, piece: str) -> str:
        text, self._held = self._held + piece, ""
        if not self._stops:
            self._parts.append(text)
            return text
        places = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            _, start, self.stopped = min(places)
            text = text[:start]
        else:
            held = _beginning(text, self._stops)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        self._parts.append(text)
        return text


def _beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text with which a stop text begins."""
    longest = min(len(text), max(map(len, stops)) - 1)
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
