"""Parsers: what a free answer says, as one of the answers that an item allows. A new one is a row here.

Tasks name them. None is a wrong answer, never one that is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from edgekit.bench.parsers.boxes import LabelledBox, labelled_boxes
from edgekit.bench.parsers.letters import final_letter, notebook_letter
from edgekit.bench.parsers.names import first_named, first_yes_or_no
from edgekit.bench.parsers.statements import final, plain

__all__ = [
    "PARSERS",
    "LabelledBox",
    "Parser",
    "ParserName",
    "final_text",
    "first_named",
    "first_yes_or_no",
    "labelled_boxes",
]


class Parse(Protocol):
    """The answer, the answers allowed, and what was asked, where that is known -> one of those allowed, or None."""

    def __call__(self, answer: str, names: Iterable[str], /, question: str = "") -> str | None: ...


@dataclass(frozen=True)
class Parser:
    """One way to read an answer.

    Attributes:
        description: what it does, for readers of a figure that rests on it.
        parse: what reads it.
    """

    name: str
    description: str
    parse: Parse

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


_ROWS = (
    Parser(
        "first-label",
        "the first label that is affirmed as a whole word, the longest at equal position; what is denied or doubted "
        "names none, nor do two of which it is one; normal is the whole image alone; none: wrong",
        lambda answer, names, question="": first_named(answer, names),
    ),
    Parser(
        "first-yes-or-no",
        "yes or no, whichever begins a clause first, else what is said of the finding that was asked for, else what "
        "all statements come to; doubt is neither; none: wrong",
        lambda answer, names, question="": first_yes_or_no(answer, question),
    ),
    Parser(
        "final-letter",
        'the letter behind the last "Final Answer:", or behind the last "answer is"; two, or one that is denied: wrong',
        lambda answer, names, question="": final_letter(answer, names),
    ),
    Parser(
        "medqa-notebook",
        "the eight patterns of Google's notebook for MedQA, the first that matches; none: wrong",
        lambda answer, names, question="": notebook_letter(answer, names),
    ),
)

PARSERS: Mapping[str, Parser] = {row.name: row for row in _ROWS}


def _known(parser: str) -> str:
    if parser not in PARSERS:
        allowed = " or ".join(repr(name) for name in PARSERS)
        raise PydanticCustomError("parser", "Input should be {allowed}", {"allowed": allowed})
    return parser


ParserName = Annotated[str, AfterValidator(_known)]  # in a task's file


def final_text(answer: str) -> str:
    """What an answer in words says: what stands behind the last "Final Answer:", else all of it."""
    return plain(final(answer)).strip()
