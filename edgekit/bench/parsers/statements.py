"""What sentences say of the things they name: that they are there, that they are not, or that nobody can tell.

After NegEx (Chapman et al., J. Biomed. Inform. 34 (2001) 301): words that deny what follows, up to the end of their
clause, words that deny what went before, and phrases that look like the former and deny nothing. Words of doubt count
as the same here: who cannot tell whether there is a nodule names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEEN = (
    "(?:seen|present|visible|visuali[sz]ed|identified|noted|evident|apparent|detected|demonstrated|found|observed"
    "|appreciated|shown|suspected|supported|suggested|confirmed)"
)
_TOLD = (
    "(?:determined|excluded|ruled out|confirmed|assessed|evaluated|distinguished|diagnosed|established|told|seen"
    "|identified|named|made|said)"
)
# They deny or doubt what follows.
_BEFORE = re.compile(
    r"\b(?:no|not|without|neither|nor|never|none|lacks?|lacking|cannot|unable|impossible|whether|unclear"
    r"|uncertain|unsure|insufficient|inadequate|unlikely|improbable"
    r"|absence of|resolution of|free of|free from|clear of|negative for|rules? out|ruled out|ruling out|excludes?|excluding|exclude"
    r"|den(?:y|ies|ied)|rather than|instead of|as opposed to|less likely|difficult to|hard to|question of|evaluate for|r/o)\b|n't\b",
    re.IGNORECASE,
)
# They look like one of those, and deny nothing.
_PSEUDO = re.compile(
    r"\b(?:not only|not just|not surprisingly|no doubt|without (?:a )?doubt|no question|no wonder"
    r"|without question|(?:no|not any) (?:\w+ )?(?:change|increase|decrease|progression|improvement) in|cannot be missed"
    r"|without (?:iv |intravenous )?contrast|non-?contrast|no less than|no matter|no\. ?\d+)\b",
    re.IGNORECASE,
)
# They deny or doubt what went before.
_AFTER = re.compile(
    rf"(?:\b(?:not|never)|n't) (?:\w+ ){{0,2}}(?:{_SEEN}|be {_TOLD}|possible|likely|the (?:\w+ )?(?:finding|diagnosis"
    rf"|cause|answer|case))\b|\b(?:cannot|could not|can not) (?:\w+ )?be (?:\w+ )?{_TOLD}\b"
    r"|\b(?:is|are|was|were|seems?) less likely\b|\b(?:absent|negative|ruled out|excluded|unlikely|improbable|(?<!not )resolved|no longer|nowhere|unclear|uncertain"
    r"|indeterminate|doubtful|impossible)\b|^\s*[:=–-]\s*(?:no|none|not|absent|negative)\b",
    re.IGNORECASE,
)
# What is said behind such a word is of something else.
_STATED = re.compile(rf"\b{_SEEN}\b|\blikely\b", re.IGNORECASE)
# Here a clause ends.
_END = re.compile(
    r";|(?<!present)(?<!following):|\b(?:but|however|although|though|yet|except|besides|nevertheless|nonetheless|because|apart from|other than"
    r"|aside from|beyond|shows|demonstrates|reveals|suggests|indicates)\b"
    r"|,? and (?=(?:there|the|this|it|i|shows?|is|are)\b)"
    r"|, (?=(?:there|the|this|that|it|i|an?|only|just|instead|with|which|so|most|rather|consistent"
    r"|compatible|suggestive|suggesting|indicating|in keeping)\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:i|we)(?:'m| am| are)? (?:cannot|can't|can not|could not|am unable to|unable to|not able to|won't|do not have)"
    r" (?:\w+ ){0,4}(?:diagnos\w*|interpret\w*|advice|answer|determine|tell|say|see|view|identify|assess|ability"
    r"|enough information)\b|\bas an? (?:ai|language model)\b|\b(?:i|we) (?:do not|don't) know\b"
    r"|\b(?:i|we)(?:'m| am| are) not sure\b",
    re.IGNORECASE,
)
_TURN = re.compile(r"\b(?:but|however|nevertheless|nonetheless|that said|although|though|still|yet)\b", re.IGNORECASE)
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
    before = _PSEUDO.sub(lambda phrase: " " * len(phrase.group()), sentence[:start])
    clause = max((found.end() for found in _END.finditer(before)), default=0)
    if _BEFORE.search(before, clause):
        return True
    behind = sentence[end:]
    stop = min((found.start() for pattern in (_END, _STATED) if (found := pattern.search(behind))), default=len(behind))
    denial = _AFTER.search(behind)
    return denial is not None and denial.start() <= stop
