"""Which of several names an answer affirms, and whether it says yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgekit.bench.parsers.statements import denies, final, plain, refuses, sentences

# Where a sentence's next statement begins. One with `_ASIDE` before it only adds to the one before.
_STATEMENTS = re.compile(
    r";|\b(?:but|however|although|though|nevertheless|whereas)\b"
    r"|,\s*(?=(?:no|not|without|with|so|which|there|the|this|that|it|i|currently|now|an?)\b)"
    r"|\s(?=(?:with no|without)\b)|\band (?=(?:there|the|this|it|i|no)\b)",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"\W*(?:with|without|no|not)\b", re.IGNORECASE)
_VERDICT = re.compile(
    r"(?:^|[,;:.!?(\"–-]\s{0,8}|\b(?:so|but|and|hence|therefore|thus)\s{1,8})\W{0,8}"
    r"(?:(?:so|therefore|thus|hence|in short|in conclusion),?\s{0,8})?(?:i(?: would|'d) say |i think )?"
    r"(?:the |my )?(?:correct )?(?:answer\W{0,8}(?:is\W{0,8}|would be\W{0,8})?)?"
    r"(?:(yes)\b(?!\s{0,8}(?:or|/)\s{0,8}no\b)"
    r"|(no)(?=\s{0,8}(?:[,.;:!?)\"'–]|-|$)"
    r"|\s{1,8}(?:there|it|the|this|that|i|they|although|because|since|not)\b)(?!\. ?\d))",
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
_DENIED = re.compile(
    r"\b(?:no|not|without|absent|negative|neither|none|never|unlikely|excluded|ruled out|free of|lacks?|incorrect|false"
    r"|absence of|resolved)\b|n't\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"\b(?:history of|previously|formerly|earlier|in the past)\b", re.IGNORECASE)
_AFFIRMED = re.compile(
    r"\bthere (?:is|are|appears?|seems?)\b|\bcan be seen\b|\b(?:has|have|appears?|seems?)\b"
    r"|\b(?:is|are) (?:\w+ )?(?:present|seen|visible|evident|noted|identified|likely|correct|true)\b|\bpresent\b"
    r"|\b(?:shows|demonstrates|reveals) (?:an?|evidence|signs?)\b|\b(?:positive for|consistent with|suggestive of)\b"
    r"|^\W*(?:correct|true|present|positive|indeed)\b",
    re.IGNORECASE,
)
_HEALTHY = re.compile(r"\b(?:normal|clear|unremarkable)\b", re.IGNORECASE)
_WORDS = re.compile(r"\w+(?:-\w+)*")
# Words of any question.
_COMMON = frozenset(
    re.findall(
        r"[\w-]+",
        "is are was were there any a an the of in on at to this that these it its image picture x-ray xray radiograph "
        "chest scan photo photograph film evidence sign signs do does did show shows shown see seen present visible "
        "have has be can you patient and or with for from by here finding findings answer yes no",
    )
)
_STEM = 7  # letters: consolidated and consolidation are one, pneumonia and pneumothorax two

_WHOLE = (
    r"(?:chest|x-?rays?|cxr|images?|stud(?:y|ies)|exam(?:ination)?s?|lungs?|radiographs?|scans?|films?|mri|ct|brain|skin"
    r"|tissue|fundus|retina|picture|appearances?|findings?|everything|all|it|this|description|diagnosis"
    r"|impression|conclusion|label|answer|option|category|class|classification)"
)
_EXCEPT = re.compile(r"[^.;]{0,60}\b(?:other than|except|apart from|aside from|besides)\b", re.IGNORECASE)
_EITHER = re.compile(r"[\s,(]*(?:or|versus|vs\.?|and/or)[\s(]*(?:an? |the |else )?", re.IGNORECASE)


def first_named(answer: str, names: Iterable[str]) -> str | None:
    """The one of `names` that an answer affirms first, the longest at equal position; None if it affirms none.

    Two of which it is one are none. Normal is what the whole image is called, not a part of it.
    """
    text, names = plain(final(answer)), tuple(names)
    if refuses(text):
        return None
    for sentence in sentences(text):
        hits = [
            (found.start(), -len(name), name)
            for name in names
            for found in re.finditer(rf"\b{re.escape(name)}\b", sentence, re.IGNORECASE)
            if not denies(sentence, *found.span()) and not _of_a_part(name, sentence, *found.span())
        ]
        if hits := sorted([hit for hit in hits if hit[2].lower() != "normal"] or hits):
            start, length, name = hits[0]
            end = start - length
            others = (hit for hit in hits if end <= hit[0] <= end + 40 and hit[2] != name)
            either = any(_EITHER.fullmatch(sentence, end, other[0]) for other in others)
            return None if either else name
    return None


def _of_a_part(name: str, sentence: str, start: int, end: int) -> bool:
    """Whether a name that says that nothing is there says so of a part alone, or with an exception."""
    if name.lower() != "normal":
        return name.lower().startswith("no ") and _EXCEPT.match(sentence, end) is not None
    before, behind = sentence[max(0, start - 80) : start], sentence[end : end + 80]
    alone = re.fullmatch(r"\W*(?:(?:the )?(?:answer|finding|diagnosis|label)\W*(?:is\W*)?)?", before, re.IGNORECASE)
    whole = (
        (alone and re.match(r"\W*$|\s*[.,;:(–-]", behind))
        or re.match(rf"\s+(?:\w+ )?{_WHOLE}\b", behind, re.IGNORECASE)
        or re.search(rf"\b{_WHOLE}\b(?:\W+(?!heart|size)\w+){{0,4}}\W+$", before, re.IGNORECASE)
    )
    return not whole or _EXCEPT.match(behind) is not None


def first_yes_or_no(answer: str, question: str = "") -> str | None:
    """'yes' or 'no', whichever an answer begins a clause with first.

    Where none does: what it says of what the question asks for; else what all its statements come to, if that is one.
    """
    text = plain(final(answer))
    if refuses(text):
        return None
    told = [sentence for sentence in sentences(text) if not sentence.rstrip().endswith("?")]
    for sentence in told:
        if verdict := _VERDICT.search(sentence):
            return str(verdict.group(verdict.lastindex or 0)).lower()
    split = [[part for part in _STATEMENTS.split(sentence) if part.strip()] for sentence in told]
    asked = _stems(question)
    about = [(len(asked & _stems(part)), part) for parts in split for part in parts]
    most = max((count for count, _ in about), default=0)
    if most:
        part = next(part for count, part in about if count == most)
        if _DOUBT.search(part):
            return None
        if said := _said_of(asked, part, complete=most == len(asked)):
            return said
    if _HEALTHY.search(question):
        return None
    asides = {_polarity(part) for parts in split for part in parts[1:] if _ASIDE.match(part)}
    mains = {_polarity(part) for parts in split for at, part in enumerate(parts) if not at or not _ASIDE.match(part)}
    mains.discard(None)
    said_by_all = mains | asides - {None}
    return said_by_all.pop() if mains and len(said_by_all) == 1 else None


def _said_of(asked: frozenset[str], part: str, *, complete: bool) -> str | None:
    """What a statement says of what was asked for."""
    part = _IDIOMS.sub(" ", part)
    spans = [found.span() for found in _WORDS.finditer(part) if _stem(found.group()) in asked]
    if spans and denies(part, *spans[-1]):
        return "no"
    healthy = _HEALTHY.search(part)
    if _BEFORE.search(part) or (healthy and _stem(healthy.group()) not in asked):
        return None
    return "yes" if complete or _AFFIRMED.search(part) else None


def _polarity(part: str) -> str | None:
    """Whether a statement denies or affirms what it speaks of."""
    part = _IDIOMS.sub(" ", part)
    if _DOUBT.search(part):
        return None
    if _DENIED.search(part):
        return "no"
    return "yes" if _AFFIRMED.search(part) and not _HEALTHY.search(part) and not _BEFORE.search(part) else None


def _stem(word: str) -> str:
    word = word.lower()
    return word[:_STEM] if len(word) > _STEM else word.removesuffix("s") if len(word) > 3 else word


def _stems(text: str) -> frozenset[str]:
    return frozenset(_stem(word) for word in _WORDS.findall(text) if word.lower() not in _COMMON)
