"""What whoever uses a served model must be told: its licence, the restrictions that come with it, the agreement itself.

To offer a model over a network is to distribute it. The terms of MedGemma and MedSigLIP want every user to get a copy
of the whole agreement and to be told which uses it forbids. The agreement is not edgekit's to ship: who runs a server
for others gives it the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgekit.artifacts.licenses import agreement_of
from edgekit.serve.engines.served import Served

NOT_CLEARED = "edgekit is not cleared for any clinical use; what a model says may be wrong"
_BOUND = "Whoever uses this model, through this server too, is bound by section 3.2 of the agreement: "


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
    agreement = agreement_of(model.license)
    return f"{_BOUND}{agreement.forbids}" if agreement else None


def need_agreement(models: Iterable[Served]) -> bool:
    """Whether a model is among them that others may only be offered together with its agreement: one whose notice names
    such an agreement, or one of others, whose terms nobody here knows.
    """
    return any(_known(one) or not one.stand_in for one in models)
