"""Questions about a patient's record, with answers of which nothing goes through what a model is shown.

A walk over a bundle's JSON that shares no code with `edgekit.inputs.fhir`: where the two disagree, a score shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

# Laboratory tests of which a record that has none must not be given a value, each with the words that name it.
_LABORATORY = (
    ("Troponin I", ("troponin",)),
    ("Ferritin", ("ferritin",)),
    ("Lipase", ("lipase",)),
    ("D-dimer", ("dimer",)),
    ("Prolactin", ("prolactin",)),
    ("Lactate", ("lactate", "lactic")),
)
_DATES = (
    "effectiveDateTime", "authoredOn", "onsetDateTime", "recordedDate", "performedDateTime", "occurrenceDateTime",
)  # fmt: skip
_PERIODS = ("performedPeriod", "period", "effectivePeriod")
_MOST_ORDERS = 8  # of the pairs of a record, which grow with the square of its procedures
_LONGEST = 100  # characters of a name that a question can be asked about


@dataclass(frozen=True)
class Asked:
    """A question about one record.

    Attributes:
        topic: `last value`, `last date`, `trend`, `medications`, `allergies`, `order`, `last encounter`, `not there`.
        truth: a number, a day, `rose`, `fell` or `unchanged`, or names with | between them; "" where there is nothing.
        others: names that the answer must not have; of a last value the result's own and its unit, which may have
            numbers.
        evidence: resources that the answer is taken from.
    """

    topic: str
    question: str
    truth: str
    others: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


def questions(bundle: Mapping[str, Any]) -> Iterator[Asked]:
    """The questions of one bundle of FHIR R4, in the order of their topics."""
    every = [entry["resource"] for entry in bundle["entry"]]
    series = _series(every)
    for name, found in series.items():
        date, value, place, unit = found[0]
        own = (name, unit) if unit else (name,)
        yield Asked("last value", f"What was the last value of {name}?", _number(value), own, (place,))
        yield Asked("last date", f"When was {name} last measured?", date, (), (place,))
    for name, found in series.items():
        if len(found) > 1:
            (_, newer, one, _), (_, older, other, _) = found[:2]
            change = "rose" if newer > older else "fell" if newer < older else "unchanged"
            asked = f"Between its last two values, did {name} rise, fall, or stay unchanged? Answer with one word."
            yield Asked("trend", asked, change, (), (one, other))
    yield from _medications(every)
    active = [one for one in _all(every, "AllergyIntolerance") if "active" in _codes(one.get("clinicalStatus"))]
    names = [_name(one["code"]) for one in active]
    yield Asked("allergies", "Which allergies does the patient have?", _joined(names), (), _places(active))
    yield from _orders(every)
    visits = [(date, one) for one in _all(every, "Encounter") if (date := _date(one))]
    if visits:
        last = max(date for date, _ in visits)
        places = _places([one for date, one in visits if date == last])
        yield Asked("last encounter", "When was the last encounter?", last, (), places[:1])
    known = " ".join(_said(one).casefold() for one in every)
    for name, words in _LABORATORY:
        if not any(word in known for word in words):
            yield Asked("not there", f"What was the last value of {name}?", "")


def narrative(bundle: Mapping[str, Any]) -> str:
    """A line for each resource that has a name, the newest first: what a plain export of a record looks like."""
    every = [entry["resource"] for entry in bundle["entry"]]
    lines = []
    for one in every:
        text = _said(one) or (_medicine(one, every) if one["resourceType"] == "MedicationRequest" else "")
        if text or one["resourceType"] == "Encounter":
            quantity = one.get("valueQuantity", {})
            value = f": {_number(quantity['value'])} {quantity.get('unit', '')}" if "value" in quantity else ""
            status = one.get("status") or " ".join(_codes(one.get("clinicalStatus")))
            lines.append(f"{_date(one) or 'undated'} {one['resourceType']} {text}{value} {status}")
    return "\n".join(sorted(lines, reverse=True))


def _series(every: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, float, str, str]]]:
    """Final results by name: (day, value, place, unit), the newest first; of a day with two values nothing is asked."""
    found: dict[str, list[tuple[str, float, str, str]]] = {}
    for one in _all(every, "Observation"):
        name, quantity, date = _said(one), one.get("valueQuantity", {}), one.get("effectiveDateTime", "")[:10]
        if one.get("status") == "final" and "value" in quantity and len(date) == 10 and 0 < len(name) <= _LONGEST:
            found.setdefault(name, []).append((date, quantity["value"], _place(one), quantity.get("unit", "")))
    kept = {}
    for name, values in sorted(found.items()):
        values.sort(key=lambda one: one[0], reverse=True)
        if all(one[0] != other[0] for one, other in pairwise(values[:3])):
            kept[name] = values
    return kept


def _medications(every: Sequence[Mapping[str, Any]]) -> Iterator[Asked]:
    prescribed = _all(every, "MedicationRequest")
    names = {place: _medicine(one, every) for place, one in zip(_places(prescribed), prescribed, strict=True)}
    active = {place: names[place] for place, one in zip(names, prescribed, strict=True) if one["status"] == "active"}
    if active:
        others = tuple(sorted({*names.values()} - {*active.values()}))
        asked = "Which medications are active? Name all of them."
        yield Asked("medications", asked, _joined(list(active.values())), others, tuple(active))


def _orders(every: Sequence[Mapping[str, Any]]) -> Iterator[Asked]:
    """Which of two procedures came first, of those that were done once."""
    once: dict[str, list[Mapping[str, Any]]] = {}
    for one in _all(every, "Procedure"):
        once.setdefault(_said(one), []).append(one)
    single = [(name, found[0]) for name, found in sorted(once.items()) if len(found) == 1 and 0 < len(name) <= _LONGEST]
    asked = 0
    for (name, one), (other_name, other) in combinations(single, 2):
        day, other_day = _date(one), _date(other)
        nested = name.casefold() in other_name.casefold() or other_name.casefold() in name.casefold()
        if len(day) != 10 or len(other_day) != 10 or day == other_day or nested or asked == _MOST_ORDERS:
            continue
        first, second = (name, other_name) if day < other_day else (other_name, name)
        places = (_place(one), _place(other))
        question = f"Which came first: {name}, or {other_name}? Name that one alone."
        yield Asked("order", question, first, (second,), places)
        asked += 1


def _all(every: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """Resources of a kind; what was entered in error is none."""
    found = [one for one in every if one["resourceType"] == kind and one.get("status") != "entered-in-error"]
    return [one for one in found if not {"entered-in-error", "refuted"} & {*_codes(one.get("verificationStatus"))}]


def _places(found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(map(_place, found))


def _place(one: Mapping[str, Any]) -> str:
    return f"{one['resourceType']}/{one['id']}"


def _codes(concept: Mapping[str, Any] | None) -> list[str]:
    return [coding.get("code", "") for coding in (concept or {}).get("coding", [])]


def _name(concept: Mapping[str, Any]) -> str:
    named = concept.get("text") or next((coding.get("display") for coding in concept.get("coding", [])), "")
    return " ".join(str(named or "").replace("\u200b", "").split())


def _said(one: Mapping[str, Any]) -> str:
    """What a resource is about."""
    for key in ("code", "vaccineCode", "medicationCodeableConcept", "type"):
        concept = one.get(key)
        concept = concept[0] if isinstance(concept, list) and concept else concept
        if isinstance(concept, dict) and (name := _name(concept)):
            return name
    return ""


def _medicine(one: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    if "medicationCodeableConcept" in one:
        return _name(one["medicationCodeableConcept"])
    wanted = one["medicationReference"]["reference"].rpartition(":")[2].rpartition("/")[2]
    return next((_name(other["code"]) for other in every if other.get("id") == wanted), "")


def _date(one: Mapping[str, Any]) -> str:
    for key in _DATES:
        if key in one:
            return str(one[key])[:10]
    periods = (one[key] for key in _PERIODS if key in one)
    return next((str(period.get("start", ""))[:10] for period in periods), "")


def _number(value: float) -> str:
    return f"{value:.6g}" if value % 1 else f"{value:.0f}"


def _joined(names: Sequence[str]) -> str:
    return " | ".join(sorted({*names}))
