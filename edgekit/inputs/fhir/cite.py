"""Answers that cite: what may be written, and whether the record says what an answer says that it does.

A sentence is held against the facts that it cites, by the numbers and dates in it. That what is cited has the right
number does not make a sentence right; that it has not makes it wrong, and that is marked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgekit.inputs.fhir.digest import Digest, named_in
from edgekit.inputs.fhir.facts import Fact

Mark = Literal["cited", "uncited", "wrong", "not in the record"]

NOT_THERE = "Not in the record."
RULES = (
    "Answer from this record alone. Behind every sentence write in brackets the ids of the lines it is taken from, "
    f"for example [O1]. If the record does not say it, answer: {NOT_THERE}"
)
_CITED = re.compile(r"\[([A-Z]\d+(?:,\s*[A-Z]\d+)*)\]")
_SENTENCE = re.compile(r"[^.!?\n]*(?:\.(?=\d)[^.!?\n]*)*[.!?]?(?:\s*\[[^\]]*\])*")
_DATE = re.compile(r"\b(\d{4}-\d{2}(?:-\d{2})?)\b")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:[.,]\d+)?(?![\w-])")
_ABSENT = re.compile(r"\bnot in the record\b", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    """One sentence of an answer.

    Attributes:
        ids: that it cites.
        mark: `cited`, or what is wrong with it.
        why: of a wrong one; of a cited one what speaks against it, where something does.
    """

    text: str
    ids: tuple[str, ...]
    mark: Mark
    why: str = ""


def grammar(digest: Digest) -> str:
    """A grammar in Lark's form for answers that cite no id which the digest has not."""
    ids = " | ".join(f'"{name}"' for name in digest.facts) or '"none"'
    return f'start: (TEXT | cited)+\nTEXT: /[^\\[\\]]+/\ncited: "[" id (", " id)* "]"\nid: {ids}\n'


def prompt(digest: Digest, question: str) -> str:
    """What the model is asked."""
    return f"{digest.text}\n\n{RULES}\n\nQuestion: {question}"


def check(answer: str, digest: Digest) -> list[Sentence]:
    """An answer's sentences, each marked."""
    found = []
    for match in _SENTENCE.finditer(answer):
        text = match.group().strip()
        if not text or not any(letter.isalnum() for letter in text):
            continue
        found.append(_marked(text, digest.facts))
    return found


def _marked(text: str, facts: Mapping[str, Fact]) -> Sentence:
    ids = tuple(one.strip() for group in _CITED.findall(text) for one in group.split(","))
    said = _CITED.sub("", text)
    if unknown := [one for one in ids if one not in facts]:
        return Sentence(text, ids, "wrong", f"{unknown[0]} is no line of the record")
    if not ids:
        return Sentence(text, ids, "not in the record" if _ABSENT.search(said) else "uncited")
    cited = [facts[one] for one in ids]
    for date in _DATE.findall(said):
        if not any(fact.date.startswith(date) or date.startswith(fact.date or "-") for fact in cited):
            return Sentence(text, ids, "wrong", f"{date} is no date of {', '.join(ids)}")
    for number in _NUMBER.findall(_DATE.sub("", said)):
        if not any(_holds(fact, float(number.replace(",", "."))) for fact in cited):
            return Sentence(text, ids, "wrong", f"{number} stands in none of {', '.join(ids)}")
    unnamed = not any(named_in(said, fact) for fact in cited)
    return Sentence(text, ids, "cited", f"no word of it stands in {', '.join(ids)}" if unnamed else "")


def _holds(fact: Fact, number: float) -> bool:
    """Whether a number stands in a fact, or is one rounded as it is written."""
    words = _NUMBER.findall(f"{fact.value} {fact.unit} {fact.text} {fact.date[:4]} {fact.time.replace(':', ' ')}")
    return any(abs(float(word.replace(",", ".")) - number) <= 1e-9 + 0.005 * abs(number) for word in words)
