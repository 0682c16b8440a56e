"""What sentences say of the things they name: that they are there, that they are not, or that nobody can tell.

After NegEx (Chapman et al., J. Biomed. Inform. 34 (2001) 301): words that deny what follows, up to the end of their
clause, words that deny what went before, and phrases that look like the former and deny nothing. Words of doubt count
as the same here: who cannot tell whether there is a nodule names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def _any(*phrases: str) -> re.Pattern[str]:
    """Any of these phrases, of whole words, in whatever case."""
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)


def _spaced(words: str) -> str:
    return f"(?:{words.replace(' ', '|')})"


_SEEN = _spaced(
    "seen present visible visuali[sz]ed identified noted evident apparent detected demonstrated found observed "
    "appreciated shown suspected supported suggested confirmed"
)
_TOLD = _spaced(
    "determined excluded ruled_out confirmed assessed evaluated distinguished diagnosed established told seen "
    "identified named made said"
).replace("_", " ")
# They deny or doubt what follows.
_BEFORE = _any(
    "no|not|without|neither|nor|never|none|lacks?|lacking|cannot|unable|impossible|whether|unclear|uncertain|unsure",
    "insufficient|inadequate|unlikely|improbable|less likely|rather than|instead of|as opposed to|den(?:y|ies|ied)",
    "(?:absence|resolution|free|clear|question) of|free from|negative for|evaluate for|r/o|difficult to|hard to",
    "(?:rules?|ruled|ruling) out|excludes?|excluding|against|history of",
    r"(?:\w+)?n't",
)
# They look like one of those, and deny nothing.
_PSEUDO = _any(
    r"not only|not just|not surprisingly|no doubt|without (?:a )?doubt|(?:no|without) question|no wonder|no\. ?\d+",
    r"(?:no|not any) (?:\w+ )?(?:change|increase|decrease|progression|improvement) in|no less than|no matter",
    r"cannot be missed|without (?:iv |intravenous )?contrast",
)
# They deny or doubt what went before.
_AFTER = _any(
    rf"(?:not|never|\w+n't) (?:\w+ ){{0,2}}(?:{_SEEN}|be {_TOLD}|possible|likely)",
    r"(?:not|never|\w+n't) (?:\w+ ){0,2}the (?:\w+ )?(?:finding|diagnosis|cause|answer|case)",
    rf"(?:cannot|could not|can not) (?:\w+ )?be (?:\w+ )?{_TOLD}",
    "(?:is|are|was|were|seems?) less likely|absent|negative|ruled out|excluded|unlikely|improbable|no longer",
    "(?<!not )resolved|nowhere|unclear|uncertain|indeterminate|doubtful|impossible|incorrect|(?<!not )wrong",
    "would (?:be expected to )?(?:show|present|appear|cause|have|look)",
)
# They do so even behind "seen earlier".
_GONE = _any(
    "(?:has|have|had|is|are|was|were) (?:(?:since|now|completely|fully|entirely|almost) )*"
    "(?:resolved|cleared|disappeared|gone)",
    "no longer",
)
_LISTED = re.compile(r"\s*[:=–-]\s*(?:no|none|not|absent|negative)\b", re.IGNORECASE)  # "pneumothorax: none"
# What is said behind such a word is of something else.
_STATED = _any(_SEEN, "likely")
# Here a clause ends.
_END = re.compile(
    r";|(?<!present)(?<!following):|\b(?:but|however|although|though|yet|except|besides|nevertheless|nonetheless"
    r"|because|apart from|other than|aside from|beyond|shows|demonstrates|reveals|suggests|indicates)\b"
    r"|,? and (?=(?:there|the|this|it|i|shows?|is|are|favou?rs?|suggests?|supports?|points?)\b)"
    r"|, (?=(?:there|the|this|that|it|i|an?|only|just|instead|with|which|so|most|rather|consistent|compatible"
    r"|suggestive|suggesting|indicating|in keeping)\b)",
    re.IGNORECASE,
)
_REFUSAL = _any(
    r"(?:i|we)(?:'m| am| are)? (?:cannot|can't|can not|could not|unable to|not able to|won't|do not have) (?:\w+ ){0,4}"
    + _spaced(r"diagnos\w* interpret\w* advice answer determine tell say see view identify assess ability")
    + r"\b|(?:i|we) (?:do not|don't) know|as an? (?:ai|language model)|(?:i|we)(?:'m| am| are) not sure"
)
_TURN = _any("but|however|nevertheless|nonetheless|that said|although|though|still|yet")
_NEAR = 400  # characters that a clause may take
_FINAL = re.compile(r"final answer\**\s*(?:is\b\s*)?:?\**:?", re.IGNORECASE)


def plain(answer: str) -> str:
    """An answer without Markdown's marks, and with one kind of apostrophe."""
    return re.sub(r"[*_`#]+", "", answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def final(answer: str) -> str:
    """What stands behind the last "Final Answer:", which prompts may ask for; all of it where that stands nowhere."""
    *_, end = [0, *(found.end() for found in _FINAL.finditer(answer))]
    return answer[end:]


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, each with what ends it."""
    return (part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip())


def refuses(text: str) -> bool:
    """Whether an answer says that it gives none, and does not go on with one after all."""
    refusal = _REFUSAL.search(text)
    return refusal is not None and not _TURN.search(text, refusal.end())


def denies(sentence: str, start: int, end: int) -> bool:
    """Whether a sentence denies or doubts, or only asks for, what it names from `start` to `end`."""
    if sentence.rstrip().endswith("?"):
        return True
    near = sentence[max(0, start - _NEAR) : start]
    before = _PSEUDO.sub(lambda phrase: " " * len(phrase.group()), near)
    clause = max((found.end() for found in _END.finditer(before)), default=0)
    if _BEFORE.search(before, clause):
        return True
    behind = sentence[end : end + _NEAR]
    ended = found.start() if (found := _END.search(behind)) else len(behind)
    stated = found.start() if (found := _STATED.search(behind)) else len(behind)
    denials = ((_AFTER.search(behind), min(ended, stated)), (_GONE.search(behind), ended))
    return _LISTED.match(behind) is not None or any(denial and denial.start() <= stop for denial, stop in denials)
