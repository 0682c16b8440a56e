"""Which lettered option an answer chooses."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgekit.bench.parsers.statements import denies, final, plain, refuses

# Google's notebook `evaluate_on_medqa.ipynb` for MedGemma 1.5, in its order; the first that matches decides.
_NOTEBOOK = tuple(
    re.compile(pattern)
    for pattern in (
        r"The final answer is\s\(([A-J])\)",
        r"The final answer is\s\**\(([A-J])\)\**",
        r"The final answer is\s\$\\boxed{([A-J])}\$",
        r"Final Answer:\(([A-J])\)",
        r"Final Answer:\s\(([A-J])\)",
        r"Final Answer:\s\(?([A-J])",
        r"Final Answer:\s*\**\(([A-J])\)\**",
        r"\**Final Answer:\**\s\(([A-J])\)",
    )
)
_LETTER = re.compile(
    r"\\boxed\{\(?([A-Z])\)?\}|\(([A-Z])\)"
    r"|(?<![\w(])([A-Z])(?=\s*(?:[).:,;$]|$|\n)| [–-]|[\"'\]](?!\w)|\s*(?:or|and|/|&)\s*\(?[A-Z]\b)"
)
_SEVERAL = re.compile(r"\)?\}?\$?\s*(?:,|/|or|and|&)\s*\(?[A-Z]\b\)?(?!\w)")
_SAID = re.compile(r"\b(?:answer|option|choice)(?: would be| is|:)*\s*(?=\(?[A-Z]\b)", re.IGNORECASE)
_BEFORE_BARE = re.compile(
    r"(?:^|[^\w\s'-]|(?:^|\s)'|\b(?:answer|option|choice|letter|is|be|not|but|or|and|than|so|choose))\s*$",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?](?:\s|$)")
_ALONE = re.compile(r"[\s$\"'\[(]*(?:\\boxed\{)?\(?[A-Z](?:[.:)}\]\"']|\s*$)")


def final_letter(answer: str, letters: Iterable[str]) -> str | None:
    """The letter behind the last "Final Answer:", or behind the last "answer is" where that stands nowhere.

    An answer that begins with a letter alone chooses that. Two letters, or one that is denied, are none.
    """
    text, allowed = plain(answer), set(letters)
    tail = final(text)
    if tail == text and not _ALONE.match(text):
        said = [found.end() for found in _SAID.finditer(text)]
        tail = text[said[-1] :] if said else ""
    if refuses(tail):
        return None
    for found in _LETTER.finditer(tail):
        letter = next(filter(None, found.groups()))
        if found.group(3) and not _BEFORE_BARE.search(tail[max(0, found.start() - 20) : found.start()]):
            continue  # a name's own: hepatitis B
        end = _END.search(tail, found.end() + 1)  # behind the point of "A. Aspirin is wrong."
        if letter in allowed and not denies(tail[: end.start() if end else None], *found.span()):
            return None if _SEVERAL.match(tail, found.end()) else letter
    return None


def notebook_letter(answer: str, letters: Iterable[str]) -> str | None:
    """The letter that the first matching pattern of Google's notebook finds."""
    found = next((match for pattern in _NOTEBOOK if (match := pattern.search(answer))), None)
    return found.group(1) if found and found.group(1) in set(letters) else None
