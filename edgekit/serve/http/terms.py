"""What whoever uses a served model must be told: its licence, the restrictions that come with it, the agreement itself.

To offer a model over a network is to distribute it. The terms of MedGemma and MedSigLIP want every user to get a copy
of the whole agreement and to be told which uses it forbids. The agreement is not edgekit's to ship: who runs a server
for others gives it the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import read_bounded
from edgekit.errors import UsageError
from edgekit.serve.engines.served import Served

NOT_CLEARED = "edgekit is not cleared for any clinical use; what a model says may be wrong"
_BOUND = "Whoever uses this model, through this server too, is bound by section 3.2 of the agreement: no use that "
# What a notice names -> which uses that agreement forbids. Others may only be offered such a model with its agreement.
_RESTRICTIONS = {
    "Health AI Developer Foundations": f"{_BOUND}Google's prohibited use policy restricts "
    "(https://developers.google.com/health-ai-developer-foundations/prohibited-use-policy), none that could make an "
    "authority take Google for the manufacturer of a medical device, and none against the law. Clinical use needs "
    "whatever authorization the law asks for.",
    "Gemma Terms of Use": f"{_BOUND}Google's prohibited use policy restricts "
    "(https://ai.google.dev/gemma/prohibited_use_policy), and none against the law.",
}
_MOST_BYTES = 1 << 20


def document(models: Iterable[Served], agreement: str | None) -> dict[str, Any]:
    """All of it, for /terms.

    Args:
        agreement: the text of the terms of use, where the server was given it.
    """
    told = [
        {
            "id": one.id,
            "title": one.title,
            "license": one.license,
            "stand_in": one.stand_in,
            "restrictions": _known(one),
        }
        for one in models
    ]
    return {"models": told, "agreement": agreement, "clinical_use": NOT_CLEARED}


def _known(model: Served) -> str | None:
    """The restrictions of the agreement that a model's notice names."""
    return next((said for named, said in _RESTRICTIONS.items() if named in model.license), None)


def need_agreement(models: Iterable[Served]) -> bool:
    """Whether a model is among them that others may only be offered together with its agreement: one whose notice names
    such an agreement, or one of others, whose terms nobody here knows.
    """
    return any(_known(one) or not one.stand_in for one in models)


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
