"""Lark grammars of which every rule can end, in the part of Lark that leaves the answer a plain text.

llguidance finds out what is wrong with a grammar except for three things: a rule that never ends, under which an answer
goes on for ever, rules within rules without number, which its recursion does not survive, and terminals intersected by
`&` and `~`, over which it may sit for ever.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import NoReturn

from edgekit.errors import InputError
from edgekit.runtime.grammar.schema_checks import MOST_REGEX

# Brackets and rules on top of each other: the library's stack holds about 2,800.
MOST_LEVELS = 1_000
MOST_DEPTH = 32
MOST_COUNT = 100_000  # repetitions

_BRACKETS = {"(": ")", "[": "]"}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f]+ | //[^\n]* | \#[^\n]*)
    | (?P<newline>\n)
    | (?P<text>"(?:[^"\\\n]|\\.)*"i?)
    | (?P<regex>/(?!/)(?:[^/\\\n]|\\.)+/[imslux]*)
    | (?P<count>\{\s*(?:(?P<least>\d+)\s*(?:,\s*(?P<most>\d*))?|,\s*(?P<upto>\d+))\s*\})
    | (?P<statement>%ignore\b|%import\b)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
    | (?P<range>\.\.)
    | (?P<sign>[:|()\[\]*+?,])""",
    re.VERBOSE,
)
_ALLOWED = 'names, "texts", /expressions/, ( ), [ ], |, *, +, ?, {m,n}, %import common.NAME, %ignore'


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int
    least: int = 1


@dataclass(frozen=True)
class _Item:
    """One thing of a sequence: needed to reach its end or not, and what ends it: nothing, a name, or alternatives."""

    needed: bool
    ends_by: str | list[list[_Item]] | None


def check_lark(text: str) -> None:
    """Raise InputError where a Lark grammar holds what is not enforced, a rule without an end, or too many levels."""
    rules = _Parser(list(_tokens(text))).rules()
    if not rules:
        raise InputError("the Lark grammar has no rule", allowed="a rule named start, and what it names")
    ending: set[str] = set()
    while found := {name for name in rules.keys() - ending if _ends(rules[name], ending, rules.keys())}:
        ending |= found
    if endless := next((name for name in rules if name not in ending), None):
        raise InputError(f"the Lark grammar: {endless} never ends", allowed="recursion with a way out")


def _ends(alternatives: list[list[_Item]], ending: set[str], known: Set[str]) -> bool:
    return any(all(not item.needed or _item_ends(item, ending, known) for item in items) for items in alternatives)


def _item_ends(item: _Item, ending: set[str], known: Set[str]) -> bool:
    if isinstance(item.ends_by, str):
        return item.ends_by in ending or item.ends_by not in known
    return item.ends_by is None or _ends(item.ends_by, ending, known)


def _tokens(text: str) -> list[_Token]:
    """The tokens of a grammar; a line that begins with `|` belongs to the one before."""
    place, line, tokens = 0, 1, list[_Token]()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            _refuse(line, text[place : place + 20].split("\n")[0])
        if found["regex"] and len(found[0]) > MOST_REGEX:
            raise InputError(
                f"the Lark grammar, line {line}: an expression of {len(found[0])}", allowed=f"{MOST_REGEX}"
            )
        if found[0] == "|":
            while tokens and tokens[-1].kind == "newline":
                tokens.pop()
        if found.lastgroup != "space":
            tokens.append(_Token(str(found.lastgroup), found[0], line, _least(found, line)))
        line += found[0].count("\n")
        place = found.end()
    return [*tokens, _Token("newline", "\n", line)]


def _least(found: re.Match[str], line: int) -> int:
    """How often what stands before a token is repeated at least."""
    if any(len(number) > 6 or int(number) > MOST_COUNT for number in found.group("least", "most", "upto") if number):
        raise InputError(f"the Lark grammar, line {line}: {found[0]!r:.80}", allowed=f"at most {MOST_COUNT} times")
    return 0 if found[0] in ("*", "?") or found["upto"] else int(found["least"] or 1)


def _refuse(line: int, text: str) -> NoReturn:
    raise InputError(f"the Lark grammar, line {line}: {text!r:.80} is not understood", allowed=_ALLOWED)


class _Parser:
    """Reads rules as alternatives of items."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._levels = 0

    def rules(self) -> dict[str, list[list[_Item]]]:
        """The rules and terminals, by name."""
        rules: dict[str, list[list[_Item]]] = {}
        while self._place < len(self._tokens):
            token = self._take()
            if token.kind == "newline":
                continue
            if token.kind == "statement":
                self._statement()
            elif token.kind == "name" and self._at(":"):
                self._take()
                if token.text in rules:
                    raise InputError(f"the Lark grammar, line {token.line}: {token.text} is defined twice")
                rules[token.text] = self._alternatives()
                if not self._at("\n"):
                    _refuse(self._next.line, self._next.text)
            else:
                _refuse(token.line, token.text)
        return rules

    @property
    def _next(self) -> _Token:
        return self._tokens[min(self._place, len(self._tokens) - 1)]

    def _at(self, *signs: str) -> bool:
        return self._next.kind in ("sign", "newline", "range") and self._next.text in signs

    def _take(self) -> _Token:
        token = self._next
        self._place += 1
        return token

    def _statement(self) -> None:
        while not self._at("\n"):
            self._take()

    def _alternatives(self, depth: int = 0) -> list[list[_Item]]:
        self._levels += 1
        if self._levels > MOST_LEVELS or depth > MOST_DEPTH:
            allowed = f"{MOST_LEVELS} together, {MOST_DEPTH} within one another"
            raise InputError("the Lark grammar has too many rules and brackets", allowed=allowed)
        found = [self._sequence(depth)]
        while self._at("|"):
            self._take()
            found.append(self._sequence(depth))
        return found

    def _sequence(self, depth: int) -> list[_Item]:
        items = []
        while not self._at("\n", "|", ")", "]"):
            items.append(self._item(depth))
        return items

    def _item(self, depth: int) -> _Item:
        token = self._take()
        needed = True
        ends_by: str | list[list[_Item]] | None = None
        if token.kind == "name":
            ends_by = token.text
        elif token.text in _BRACKETS:
            ends_by = self._alternatives(depth + 1)
            if self._take().text != _BRACKETS[token.text]:
                _refuse(token.line, token.text)
            needed = token.text == "("
        elif token.kind not in ("text", "regex") and token.text != "..":
            _refuse(token.line, token.text)
        while self._at("*", "+", "?") or self._next.kind == "count":
            repeated = self._take()
            needed = needed and repeated.least > 0
        return _Item(needed, ends_by)
