"""What of a record a question gets to see, within a budget of tokens: the same for the same record and question.

Active medications and allergies are never left out. What the question names comes before what is merely new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import TooLongError
from edgekit.inputs.fhir.facts import SECTIONS, Fact, Facts, Section
from edgekit.inputs.fhir.reader import Record

_EARLIER = 3  # earlier values of a result behind its last one
_LEAST_LETTERS = 3
_SPARE = 16  # tokens: lines are counted one by one, and joined some words make other tokens
# Words of questions that name nothing in a record.
_STOP = frozenset({
    "the", "and", "for", "are", "was", "were", "has", "have", "had", "what", "when", "which", "who", "how",
    "does", "did", "with", "that", "this", "from", "his", "her", "their", "any", "all", "last", "latest",
    "first", "most", "recent", "patient", "patients", "record", "value", "result", "results", "date", "current",
    "currently", "active", "list",
})  # fmt: skip
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


@dataclass(frozen=True)
class Digest:
    """A record as text.

    Attributes:
        text: what the model reads.
        facts: id -> fact, of those that are in the text.
        left_out: section -> how many of its facts are not.
        tokens: of the text.
    """

    text: str
    facts: Mapping[str, Fact]
    left_out: Mapping[str, int]
    tokens: int


def digest(record: Record, facts: Facts, question: str, tokens: Callable[[str], int], budget: int) -> Digest:
    """A record's digest for a question.

    Args:
        tokens: counts those of a text.
        budget: tokens that the digest may take.

    Raises:
        TooLongError: not even the active medications and allergies fit; it says how many tokens they take.
    """
    chosen = [fact for section in SECTIONS if section.kept for fact in facts.of(section.name) if fact.active]
    about = _about(record, facts)
    used = _SPARE + tokens(about) + sum(tokens(_title(section, facts, 10_000)) for section in SECTIONS)
    used += sum(tokens(_shown(fact)) for fact in chosen)
    if used > budget:
        raise TooLongError(
            f"{record.name}: its active medications and allergies alone take {used} tokens",
            allowed=f"{budget} for the record",
            remedy=f"--context {2 * used} or more, where the machine has the memory",
        )
    taken = {fact.id for fact in chosen}
    for fact in _by_need(facts, question):
        if fact.id not in taken and used + (cost := tokens(_shown(fact))) <= budget:
            taken.add(fact.id)
            used += cost
    kept = [fact for fact in facts.all if fact.id in taken]
    text = _text(about, facts, kept)
    while (count := tokens(text)) > budget:  # joined lines took more than each by itself
        optional = [fact for fact in kept if fact not in chosen]
        kept.remove(optional[-1])
        text = _text(about, facts, kept)
    left = {section.name: len(facts.of(section.name)) - _count(kept, section) for section in SECTIONS}
    return Digest(text, {fact.id: fact for fact in kept}, {name: n for name, n in left.items() if n}, count)


def named_in(question: str, fact: Fact) -> int:
    """How many of a question's words stand in a fact's text, its value, its section's name or among its codes."""
    words = {word.casefold() for word in _WORD.findall(question) if len(word) >= _LEAST_LETTERS} - _STOP
    said = {word.casefold() for word in _WORD.findall(f"{fact.text} {fact.value}")}
    said |= {code.casefold() for code in fact.codes}
    return sum(any(_alike(word, one) for one in said) for word in words)


def _alike(word: str, other: str) -> bool:
    """The same word, or with another ending: `medication` and `medications`, `A1c` and `HbA1c` are told apart."""
    stem = min(len(word), len(other))
    return word == other or (stem >= 5 and abs(len(word) - len(other)) <= 2 and word[:stem] == other[:stem])


def _by_need(facts: Facts, question: str) -> Iterator[Fact]:
    """What the question names, the newest first; then section by section in turn, the newest of each."""
    ranked = [(named_in(question, fact), fact) for fact in facts.all]
    named = [(count, fact) for count, fact in ranked if count]
    named.sort(key=lambda one: one[1].order, reverse=True)
    named.sort(key=lambda one: one[0], reverse=True)
    yield from (fact for _, fact in named)
    rows = [_newest_of_each(facts.of(section.name)) for section in SECTIONS]
    for place in range(max(map(len, rows), default=0)):
        yield from (row[place] for row in rows if place < len(row))


def _newest_of_each(facts: Sequence[Fact]) -> list[Fact]:
    """The last of every kind before earlier ones: of twenty weights one, and with it a few before it."""
    seen: dict[str, int] = {}
    ranked = []
    for number, fact in enumerate(facts):
        seen[fact.text] = turn = seen.get(fact.text, -1) + 1
        ranked.append((turn if turn <= _EARLIER else 1_000 + turn, number, fact))
    return [fact for _, _, fact in sorted(ranked, key=lambda one: one[:2])]


def _text(about: str, facts: Facts, kept: Sequence[Fact]) -> str:
    lines = [about]
    for section in SECTIONS:
        own = [fact for fact in kept if fact.section == section.name]
        lines.append(_title(section, facts, len(own)))
        lines += map(_shown, own)
    return "\n".join(lines)


def _title(section: Section, facts: Facts, shown: int) -> str:
    count = len(facts.of(section.name))
    if not count:
        return f"{section.title}: none recorded"
    left = max(0, count - shown)
    return f"{section.title} ({count}{f', {left} older left out' if left else ''}):"


def _shown(fact: Fact) -> str:
    return f"[{fact.id}] {fact.line}"


def _count(kept: Sequence[Fact], section: Section) -> int:
    return sum(fact.section == section.name for fact in kept)


def _about(record: Record, facts: Facts) -> str:
    """Sex and age in years at the newest entry: who it is, nobody has to tell a model."""
    newest = max((fact.date for fact in facts.all), default="")
    born, sex = str(record.patient.get("birthDate") or ""), str(record.patient.get("gender") or "")
    said = [sex] if sex in ("male", "female", "other") else []
    if born[:4].isdigit() and newest:
        years = int(newest[:4]) - int(born[:4]) - (newest[5:10] < born[5:10])
        said.append(f"{years} years old at the last entry" if 0 <= years < 90 else "90 years old or older")
    if record.patient.get("deceasedDateTime") or record.patient.get("deceasedBoolean"):
        said.append("deceased")
    entry = f"; the last entry is of {newest}" if newest else ""
    return f"Patient: {', '.join(said) or 'sex and age not recorded'}{entry}"
