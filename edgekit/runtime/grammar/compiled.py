"""Grammars as llguidance takes them: its limits, its complaints, and whether anything satisfies one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from edgekit.errors import InputError

# The library asks itself what must come, and never stops where that has no end.
UNFORCED = '%llguidance {"no_forcing": true}'
_LEXER_STATES = 50_000  # about 100 MB at most


def limits() -> Any:
    """What a grammar may take: it ends in an error within a second or two, not in a full memory."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=_LEXER_STATES, verbose_errors=False)


def complaint(text: str) -> str:
    """The line that says what is wrong, of one of llguidance's messages: it quotes the grammar around it."""
    lines = text.splitlines() or ["nothing satisfies it"]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return "llguidance fails on it" if said.startswith("panic") else said.split("compile JSON schema: ")[-1]


def lark(rules: str) -> str:
    """A Lark grammar as llguidance takes it."""
    return dumped({"grammars": [{"lark_grammar": rules}]})


def dumped(value: Any) -> str:
    """A schema, or a grammar, as JSON. Raises InputError where it is none."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # no JSON, NaN, or a value that holds itself
        raise InputError(f"the JSON schema is no JSON: {error}") from error


def check_text(text: object, what: str, most: int) -> None:
    """Raise InputError where something is no text, empty, longer than that, or no Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__}", allowed="text")
    if not 0 < len(text) <= most:
        raise InputError(f"{what} has {len(text)} characters", allowed=f"1 to {most}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode at character {error.start}", allowed="UTF-8") from error


@cache
def _bytes() -> Any:
    """A tokenizer of single bytes: enough to see that a grammar can begin, whatever the model."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def check_grammar(grammar: str, what: str) -> None:
    """Raise InputError where no text, or nothing but the empty one, satisfies what llguidance reads.

    Args:
        what: it is, for messages.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=limits())
    first = 0
    if not matcher.is_error():
        first = int.from_bytes(matcher.compute_bitmask(), "little") & ~(1 << _bytes().eos_token)
    if matcher.is_error():
        said = complaint(matcher.get_error())
        said = "nothing satisfies it" if said.startswith("NoExtension") else said
        raise InputError(f"{what} cannot be used: {said}")
    if not first:
        raise InputError(f"{what} cannot be used: nothing but the empty text satisfies it")
