"""What a person or a program is shown: nothing that others wrote may control a terminal. Nothing else prints."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

# Of control characters (C0, DEL, C1) all but tab and line feed; halves of surrogate pairs, which no encoding has; what
# turns the direction of writing; other breaks of lines; marks and tags that nobody sees. Those that join letters stay.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
_BREAK = re.compile(r"[\t\n]")
_CUT = " [...] "


def printable(text: object, *, lines: bool = False) -> str:
    """Text with a visible escape, as Python writes it, in place of each character that could control a terminal.

    Args:
        lines: whether it may have line breaks and tabs.
    """
    safe = _UNSAFE.sub(_escape, str(text))
    return safe if lines else _BREAK.sub(_escape, safe)


def stripped(text: object) -> str:
    """Text without the characters that could control a terminal; line breaks and tabs stay."""
    return _UNSAFE.sub("", str(text))


def stripped_line(text: object, most: int = 200) -> str:
    """What others wrote as one line to keep: without what could control a terminal, and not longer than `most`.

    What is longer ends with a whole word, where it has words, and a mark.
    """
    whole = str(text)
    if len(whole) > most:
        head = whole[: most - len(_CUT)]
        whole = f"{head[: head.rfind(' ')] if ' ' in head else head}{_CUT.rstrip()}"
    return _BREAK.sub("", stripped(whole))


def shortened(text: str, most: int) -> str:
    """At most so many characters of a text: its beginning and its end, with a mark where it was cut."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - len(_CUT)]}{_CUT}{text[-end:]}"


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON as people read it, in Unicode, but with escapes for what could control a terminal.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has not.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def show(text: object = "", *, end: str = "\n") -> None:
    """Lines of text on standard output, at once."""
    print(printable(text, lines=True), end=end, flush=True)


def say(text: object, *, lines: bool = False) -> None:
    """What the user should know, on standard error: one line, or a message that has several."""
    print(f"edgekit: {printable(text, lines=lines)}", file=sys.stderr, flush=True)


def say_json(data: Any) -> None:
    """What a program should know, on standard error: one line."""
    print(json_text(data), file=sys.stderr, flush=True)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
