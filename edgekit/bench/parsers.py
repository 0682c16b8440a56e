"""Parsers: what a free answer says, as one of the answers that an item allows. A new one is a row here.

Tasks name them. None is a wrong answer, never one that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parser:
    """One way to read an answer.

    Attributes:
        description: what it does, for readers of a figure that rests on it.
        parse: the answer and the answers allowed -> one of those, or None.
    """

    name: str
    description: str
    parse: Callable[[str, Iterable[str]], str | None]

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


def first_named(answer: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a free answer names first, the longest at equal position; None if it names none."""
    text = answer.lower()
    patterns = {name: rf"\b{re.escape(name.lower())}\b" for name in names}
    hits = [(m.start(), -len(name), name) for name, pattern in patterns.items() if (m := re.search(pattern, text))]
    return min(hits)[2] if hits else None


def first_yes_or_no(answer: str) -> str | None:
    """'yes' or 'no', whichever word a free answer contains first; None if neither."""
    match = re.search(r"\b(yes|no)\b", answer.lower())
    return match.group(1) if match else None


_ROWS = (
    Parser(
        "first-label",
        "lower-cased; the first label that occurs as a whole word, the longest at equal position; none: wrong",
        first_named,
    ),
    Parser(
        "first-yes-or-no",
        "lower-cased; the first word that is yes or no; none: wrong",
        lambda answer, names: first_yes_or_no(answer),
    ),
)

PARSERS: Mapping[str, Parser] = {row.name: row for row in _ROWS}
