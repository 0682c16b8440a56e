"""Standard output and error, whatever the terminal can show."""

from __future__ import annotations

import codecs
import io
import sys

_ERRORS = "edgekit.escaped"


def escape_what_cannot_be_shown() -> None:
    r"""Have both streams write `\u00e9` where the terminal's encoding lacks a character or a file's name has none.

    These escapes are JSON's too, unlike those of `backslashreplace`, so that what a program reads stays valid.
    """
    codecs.register_error(_ERRORS, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What stands for the characters that cannot be encoded, in units of UTF-16, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end
