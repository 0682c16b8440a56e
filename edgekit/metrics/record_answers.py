"""Whether an answer about a patient's record is right, by what its question asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CITED = re.compile(r"\[[A-Z]\d+(?:,\s*[A-Z]\d+)*\]")
_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")
_ABSENT = re.compile(r"\b(?:not in the record|none recorded|no (?:known )?(?:active )?allergies)\b", re.IGNORECASE)
_CHANGES = {
    "rose": r"rise|rises|rose|risen|increased?|higher|up",
    "fell": r"falls?|fell|fallen|decreased?|lower|down",
    "unchanged": r"unchanged|same|stable|constant",
}


def is_right(topic: str, answer: str, truth: str, others: Sequence[str] = ()) -> bool:
    """Whether an answer is exactly right; citations in brackets count for nothing here.

    last value                  its only number, beside those in the result's name, its unit and dates, is the value
    last date, last encounter   its only day is that day
    trend                       it says one of rose, fell, unchanged and their like, and that is it
    medications, order          it has every name of the truth, and none of the others
    allergies                   the same; where there is none, it says so
    not there                   it says that it is not in the record, and has no number

    Args:
        truth: as `record_questions.Asked` has it.
        others: names that the answer must not have; of a last value the result's own, and its unit.

    Raises:
        ValueError: nobody knows this topic.
    """
    said = _CITED.sub(" ", answer)
    if topic == "last value":
        return _numbers(_without(_DAY.sub(" ", said), others)) == {float(truth)}
    if topic in ("last date", "last encounter"):
        return {*_DAY.findall(said)} == {truth}
    if topic == "trend":
        words = (word for word, forms in _CHANGES.items() if re.search(rf"\b(?:{forms})\b", said, re.IGNORECASE))
        return {*words} == {truth}
    if topic == "not there" or (topic == "allergies" and not truth):
        return bool(_ABSENT.search(said)) and not _numbers(said)
    if topic in ("medications", "allergies", "order"):
        names = truth.split(" | ")
        return {*named(said, [*names, *others])} == {*names}
    raise ValueError(f"no topic: {topic}")


def named(answer: str, names: Sequence[str]) -> list[str]:
    """Which names stand in an answer, the longest first: one that is part of another's is not counted for it."""
    left, found = _plain(answer), []
    for name in sorted(names, key=len, reverse=True):
        if (own := _plain(name)) in left:
            left = left.replace(own, "|")
            found.append(name)
    return found


def _without(text: str, names: Sequence[str]) -> str:
    plain = _plain(text)
    for name in names:
        plain = plain.replace(_plain(name), " ")
    return plain


def _numbers(text: str) -> set[float]:
    return {float(number) for number in _NUMBER.findall(text)}


def _plain(text: str) -> str:
    return " ".join(text.replace("[", "(").replace("]", ")").casefold().split())
