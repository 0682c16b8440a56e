"""An answer as a FHIR R4 Composition: preliminary, by a device, with references to what it cites; no patient named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

from edgekit.inputs.fhir.cite import Sentence
from edgekit.inputs.fhir.digest import Digest

_XHTML = "http://www.w3.org/1999/xhtml"
_SAID = {"cited": "", "uncited": "cites nothing", "wrong": "wrong by what it cites", "not in the record": ""}


def composition(
    question: str, sentences: Sequence[Sentence], digest: Digest, model: str, warning: str | None, when: datetime
) -> dict[str, Any]:
    """The resource, as JSON.

    Args:
        sentences: of the answer, as `edgekit.inputs.fhir.cite.check` marked them.
        model: what answered.
        warning: what is to be known of it: that it is a stand-in.
        when: with its time zone.
    """
    cited = dict.fromkeys(name for one in sentences for name in one.ids if name in digest.facts)
    resources = dict.fromkeys(digest.facts[name].resource for name in cited)
    device = {"resourceType": "Device", "id": "model", "deviceName": [{"name": model, "type": "model-name"}]}
    notes = [warning] if warning else []
    paragraphs = "".join(f"<p>{escape(_shown(one))}</p>" for one in sentences) or "<p>no answer</p>"
    return {
        "resourceType": "Composition",
        "status": "preliminary",
        "contained": [device | ({"note": [{"text": note} for note in notes]} if notes else {})],
        "type": {"text": "Answer of a language model about a record; not reviewed"},
        "date": when.isoformat(timespec="seconds"),
        "author": [{"reference": "#model"}],
        "title": "Answer of a language model",
        "section": [
            {
                "title": question,
                "text": {"status": "generated", "div": f'<div xmlns="{_XHTML}">{paragraphs}</div>'},
                **({"entry": [{"reference": one} for one in resources]} if resources else {}),
            }
        ],
    }


def _shown(one: Sentence) -> str:
    said = _SAID[one.mark]
    return f"{one.text} ({said}{f': {one.why}' if one.why else ''})" if said else one.text
