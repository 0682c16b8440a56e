"""The agreements that models come under: what their notices name, what whoever gets a model must be told and given.

The texts are not edgekit's to ship: whoever passes a model on has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.documents import read_bounded
from edgekit.errors import UsageError

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Agreement:
    """One agreement that wants every recipient to get a copy of it, and be told which uses it forbids.

    Attributes:
        named: what a notice of it names.
        title: its own.
        id: in the metadata of a model card on Hugging Face's hub.
        url: where it is found.
        notice: the sentence that goes with every copy, word for word.
        forbids: which uses its section 3.2 restricts, as the end of a sentence.
    """

    named: str
    title: str
    id: str
    url: str
    notice: str
    forbids: str


AGREEMENTS = (
    Agreement(
        named="Health AI Developer Foundations",
        title="Health AI Developer Foundations Terms of Use",
        id="health-ai-developer-foundations",
        url="https://developers.google.com/health-ai-developer-foundations/terms",
        notice="HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at "
        "https://developers.google.com/health-ai-developer-foundations/terms",
        forbids="no use that Google's prohibited use policy restricts "
        "(https://developers.google.com/health-ai-developer-foundations/prohibited-use-policy), none that could make "
        "an authority take Google for the manufacturer of a medical device, and none against the law. Clinical use "
        "needs whatever authorization the law asks for.",
    ),
    Agreement(
        named="Gemma Terms of Use",
        title="Gemma Terms of Use",
        id="gemma",
        url="https://ai.google.dev/gemma/terms",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        forbids="no use that Google's prohibited use policy restricts "
        "(https://ai.google.dev/gemma/prohibited_use_policy), and none against the law.",
    ),
)


def agreement_of(notice: str) -> Agreement | None:
    """The agreement that a model's notice names; None where it names none of those known."""
    return next((one for one in AGREEMENTS if one.named in notice), None)


def read_agreement(path: Path) -> str:
    """The text of an agreement.

    Raises:
        UsageError: the file cannot be read, is empty, or no text.
    """
    try:
        text = read_bounded(path, UsageError, _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: no text in UTF-8") from problem
    if not text.strip():
        raise UsageError(f"{path}: is empty", allowed="the whole text of the models' terms of use")
    return text
