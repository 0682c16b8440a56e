"""Which of several names an answer affirms, and whether it says yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgekit.bench.parsers.statements import denies, final, plain, refuses, sentences

_CLAUSES = re.compile(r"\b(?:but|however|although|though|nevertheless)\b|;", re.IGNORECASE)
_LEADING = re.compile(
    r"\W*(?:(?:so|therefore|thus|hence|in short|in conclusion),?\s*)?(?:the |my )?(?:correct )?(?:answer\W*(?:is\W*)?)?"
    r"(yes|no)\b(?!\s*(?:or|/)\s*(?:yes|no)\b)(?! (?:doubt|question|matter|wonder|one)\b)",
    re.IGNORECASE,
)
_IDIOMS = re.compile(
    r"\byes ?(?:or|/|and) ?no\b|\bno (?:doubt|question|matter|wonder)\b|\bno (?:\w+ )?(?:change|increase|decrease) in\b"
    r"|\bno\. ?\d+|\bnot only\b|\bwithout (?:a )?doubt\b|\bwithout (?:iv |intravenous )?contrast\b",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:cannot|unable|unclear|uncertain|unsure|whether|not sure|not certain|not possible|impossible|indeterminate"
    r"|insufficient|inconclusive|difficult to|hard to|not enough|do not know|could not be)\b|can't|don't know",
    re.IGNORECASE,
)
_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not|without|absent|negative|neither|none|never|unlikely|excluded|ruled out|free of|lacks?|incorrect|false"
    r"|absence of|resolved)\b|n't\b",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"\bthere (?:is|are|appears?|seems?)\b|\bcan be seen\b|\b(?:has|have|appears?|seems?)\b"
    r"|\b(?:is|are) (?:\w+ )?(?:present|seen|visible|evident|noted|identified|likely|correct|true)\b|\bpresent\b"
    r"|\b(?:shows|demonstrates|reveals) (?:an?|evidence|signs?)\b|\b(?:positive for|consistent with|suggestive of)\b"
    r"|^\W*(?:correct|true|present|positive|indeed)\b",
    re.IGNORECASE,
)
_HEALTHY = re.compile(r"\b(?:normal|clear|unremarkable)\b", re.IGNORECASE)


def first_named(answer: str, names: Iterable[str]) -> str | None:
    """The one of `names` that an answer affirms first, the longest at equal position; None if it affirms none."""
    text, names = plain(final(answer)), tuple(names)
    if refuses(text):
        return None
    for sentence in sentences(text):
        hits = [
            (found.start(), -len(name), name)
            for name in names
            for found in re.finditer(rf"\b{re.escape(name)}\b", sentence, re.IGNORECASE)
            if not denies(sentence, *found.span())
        ]
        if hits:
            return min(hits)[2]
    return None


def first_yes_or_no(answer: str) -> str | None:
    """'yes' or 'no', whichever an answer says first, or what its first statement without either word comes to."""
    text = plain(final(answer))
    if refuses(text):
        return None
    verdicts = (_verdict(clause) for sentence in sentences(text) for clause in _said(sentence))
    return next(filter(None, verdicts), None)


def _said(sentence: str) -> list[str]:
    """A sentence as a whole where it begins with its verdict, else its clauses; a question says nothing."""
    if _LEADING.match(sentence):
        return [sentence]
    return [] if sentence.rstrip().endswith("?") else _CLAUSES.split(sentence)


def _verdict(clause: str) -> str | None:
    if leading := _LEADING.match(clause):
        return leading.group(1).lower()
    clause = _IDIOMS.sub(" ", clause)
    if _DOUBT.search(clause):
        return None
    if word := _WORD.search(clause):
        return word.group(1).lower()
    if _DENIED.search(clause):
        return "no"
    return "yes" if _AFFIRMED.search(clause) and not _HEALTHY.search(clause) else None
