"""Resources to facts: one line each, with an id that leads back. What was entered in error is none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from edgekit.inputs.fhir.reader import Record, Resource

_ERROR = "entered-in-error"
_NO_LONGER = ("resolved", "inactive", "remission")
_CLOCK = re.compile(r"T\d\d:\d\d")
_MOST_WHOLE = 1e15  # beyond which a number of JSON is none that is exact
_LONGEST = 200  # characters of one text


@dataclass(frozen=True)
class Section:
    """A kind of facts.

    Attributes:
        letter: what ids begin with.
        kept: whether what is active of it is never left out.
    """

    name: str
    title: str
    letter: str
    kept: bool = False


SECTIONS = (
    Section("allergies", "Allergies", "A", kept=True),
    Section("medications", "Medications", "M", kept=True),
    Section("problems", "Problems", "P"),
    Section("results", "Results", "O"),
    Section("reports", "Reports", "D"),
    Section("procedures", "Procedures", "X"),
    Section("immunizations", "Immunizations", "V"),
    Section("encounters", "Encounters", "E"),
)


@dataclass(frozen=True)
class Fact:
    """One line of a record.

    Attributes:
        id: such as `O12`: the letter of its section, and its number there, the newest first.
        section: a name of `SECTIONS`.
        date: `YYYY-MM-DD`, shorter where the record says less; "" where it says none.
        order: the moment as the record has it, in UTC where it says the zone: what is later is greater.
        time: `HH:MM` as the record has it, of a result of which the day has several; "" of others.
        text: what it is about.
        value: of a result, as text; "" where it has none.
        unit: of that value.
        status: as the resource has it.
        active: whether it holds now, by its status.
        resource: `Observation/1`.
        codes: of its terminologies.
    """

    id: str
    section: str
    date: str
    text: str
    value: str
    unit: str
    status: str
    active: bool
    resource: str
    codes: tuple[str, ...] = ()
    order: str = ""
    time: str = ""

    @property
    def line(self) -> str:
        """As a digest has it, without its id."""
        when = f"{self.date or 'undated'}{f' {self.time}' if self.time else ''}"
        value = f": {self.value}{f' {self.unit}' if self.unit else ''}" if self.value else ""
        status = f" ({self.status})" if self.status else ""
        return f"{when} {self.text}{value}{status}"


@dataclass(frozen=True)
class Facts:
    """All facts of a record.

    Attributes:
        all: in the order of `SECTIONS`, the newest of each first.
        in_error: resources left out since they were entered in error.
        unread: resource type -> how many of it are no facts here.
    """

    all: tuple[Fact, ...]
    in_error: int
    unread: Mapping[str, int]

    def of(self, section: str) -> tuple[Fact, ...]:
        """Those of one section."""
        return tuple(fact for fact in self.all if fact.section == section)


def facts(record: Record) -> Facts:
    """The facts of a record; the same for the same bundle, in whatever order its resources stand."""
    found: dict[str, list[Fact]] = {section.name: [] for section in SECTIONS}
    in_error, unread = 0, dict[str, int]()
    for resource in record.resources:
        kind = resource["resourceType"]
        if kind not in _READERS:
            unread[kind] = unread.get(kind, 0) + 1
            continue
        if resource.get("status") == _ERROR or _code(resource.get("verificationStatus")) in (_ERROR, "refuted"):
            in_error += 1
            continue
        for fact in _READERS[kind](record, resource):
            found[fact.section].append(fact)
    every = []
    for section in SECTIONS:
        ordered = sorted(found[section.name], key=lambda one: (one.text, one.value, one.resource))
        ordered.sort(key=lambda one: one.order, reverse=True)
        days = Counter((one.text, one.date) for one in ordered)
        timed = [one if days[one.text, one.date] > 1 else replace(one, time="") for one in ordered]
        every += [_plain(one, f"{section.letter}{number}") for number, one in enumerate(timed, 1)]
    return Facts(tuple(every), in_error, unread)


# ---------------------------------------------------------------- resources


def _problem(record: Record, one: Resource) -> Iterator[Fact]:
    status = _code(one.get("clinicalStatus"))
    over = status in _NO_LONGER or (not status and _any(one, "abatement"))
    yield _fact(one, "problems", one.get("code"), _when(one, "onset", "recordedDate"), status, active=not over)


def _allergy(record: Record, one: Resource) -> Iterator[Fact]:
    status, criticality = _code(one.get("clinicalStatus")), str(one.get("criticality") or "")
    said = ", ".join(filter(None, (status, f"criticality {criticality}" if criticality else "")))
    reactions = [_text(m) for r in _list(one.get("reaction")) for m in _list(r.get("manifestation"))]
    fact = _fact(
        one, "allergies", one.get("code"), _when(one, "onset", "recordedDate"), said, active=status not in _NO_LONGER
    )
    yield replace(fact, value=", ".join(filter(None, reactions))[:_LONGEST])


def _medication(record: Record, one: Resource) -> Iterator[Fact]:
    """A prescription or a statement: active where its status is, or where nobody knows that it is not."""
    if one.get("intent") in ("proposal", "plan", "option") or one.get("status") in ("draft", "cancelled", "not-taken"):
        return
    concept = one.get("medicationCodeableConcept")
    if concept is None and (medication := record.named(one.get("medicationReference"), one)):
        concept = medication.get("code")
    if concept is None:
        concept = {"text": (one.get("medicationReference") or {}).get("display") or "a medication without a name"}
    status = str(one.get("status") or "")
    active = status in ("active", "on-hold", "unknown", "intended", "")
    if one.get("doNotPerform") is True:
        status = f"{status}, NOT TO BE GIVEN".removeprefix(", ")
    doses = [str(dose.get("text") or "") for dose in _list(one.get("dosageInstruction", one.get("dosage")))]
    fact = _fact(
        one, "medications", concept, _when(one, "authoredOn", "effective", "dateAsserted"), status, active=active
    )
    yield replace(fact, value="; ".join(filter(None, doses))[:_LONGEST])


def _observation(record: Record, one: Resource) -> Iterator[Fact]:
    """A result, or each component of one: blood pressure is two."""
    date, status = _when(one, "effective", "issued"), str(one.get("status") or "")
    said = "" if status == "final" else status
    own = _value(one)
    if own is not None or not one.get("component"):
        fact = _fact(one, "results", one.get("code"), date, said)
        yield replace(fact, value=own[0] if own else _text(one.get("dataAbsentReason")), unit=own[1] if own else "")
    for part in _list(one.get("component")):
        found = _value(part)
        fact = _fact({**one, "code": part.get("code")}, "results", part.get("code"), date, said)
        yield replace(fact, value=found[0] if found else "", unit=found[1] if found else "")


def _report(record: Record, one: Resource) -> Iterator[Fact]:
    status = str(one.get("status") or "")
    kind = one.get("code", one.get("type"))
    date = _when(one, "effective", "issued", "date")
    fact = _fact(one, "reports", kind, date, "" if status in ("final", "current") else status)
    yield replace(fact, value=str(one.get("conclusion") or one.get("description") or "")[:_LONGEST])


def _procedure(record: Record, one: Resource) -> Iterator[Fact]:
    status = str(one.get("status") or "")
    yield _fact(one, "procedures", one.get("code"), _when(one, "performed"), "" if status == "completed" else status)


def _immunization(record: Record, one: Resource) -> Iterator[Fact]:
    status = str(one.get("status") or "")
    date = _when(one, "occurrence")
    yield _fact(one, "immunizations", one.get("vaccineCode"), date, "" if status == "completed" else status)


def _encounter(record: Record, one: Resource) -> Iterator[Fact]:
    kinds, reasons = _list(one.get("type")), [_text(reason) for reason in _list(one.get("reasonCode"))]
    kind = kinds[0] if kinds else {"text": str((one.get("class") or {}).get("code") or "an encounter")}
    status = str(one.get("status") or "")
    fact = _fact(one, "encounters", kind, _when(one, "period"), "" if status == "finished" else status)
    yield replace(fact, value=", ".join(filter(None, reasons))[:_LONGEST])


_READERS: Mapping[str, Callable[[Record, Resource], Iterator[Fact]]] = {
    "Condition": _problem,
    "AllergyIntolerance": _allergy,
    "MedicationRequest": _medication,
    "MedicationStatement": _medication,
    "Observation": _observation,
    "DiagnosticReport": _report,
    "DocumentReference": _report,
    "Procedure": _procedure,
    "Immunization": _immunization,
    "Encounter": _encounter,
}


# ---------------------------------------------------------------- parts of resources


def _fact(one: Resource, section: str, concept: Any, when: str, status: str, *, active: bool = True) -> Fact:
    codes = tuple(str(coding.get("code")) for coding in _codings(concept) if coding.get("code"))
    place = f"{one['resourceType']}/{one.get('id', '')}"
    name = _text(concept) or "without a name"
    time = when[11:16] if section == "results" and _CLOCK.match(when[10:]) else ""
    return Fact("", section, when[:10], name, "", "", status, active, place, codes, _order(when), time)


def _order(when: str) -> str:
    """A moment such that later ones are greater: two results of one day are told apart, also across zones."""
    try:
        moment = datetime.fromisoformat(when)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y-%m-%dT%H:%M:%S.%f")
    except (ValueError, OverflowError):
        return when[:10]


def _text(concept: Any) -> str:
    """What a concept is called: by whoever wrote it, else by its first coding."""
    if not isinstance(concept, Mapping):
        return ""
    words = [concept.get("text"), *(coding.get("display") for coding in _codings(concept))]
    words += [coding.get("code") for coding in _codings(concept)]
    return _line(next((word for word in words if isinstance(word, str) and word.strip()), ""))


def _plain(one: Fact, name: str) -> Fact:
    """With its id, and nothing in it that is no text of one line."""
    return replace(
        one,
        id=name,
        date=_line(one.date),
        text=_line(one.text),
        value=_line(one.value),
        unit=_line(one.unit),
        status=_line(one.status),
    )


def _line(text: str) -> str:
    """One line, in which nothing looks like an id of ours."""
    # What nobody sees goes: one laboratory writes `Mass/volume` with a space of no width in it, the next does not.
    seen = (letter for letter in text if unicodedata.category(letter) != "Cf")
    plain = "".join(letter if letter.isprintable() else " " for letter in seen)
    return " ".join(plain.replace("[", "(").replace("]", ")").split())[:_LONGEST]


def _codings(concept: Any) -> list[Mapping[str, Any]]:
    return [one for one in _list(concept.get("coding") if isinstance(concept, Mapping) else None) if one]


def _list(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; of one alone a list of it."""
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, Mapping)]


def _code(concept: Any) -> str:
    return next((str(coding["code"]) for coding in _codings(concept) if coding.get("code")), "")


def _any(one: Resource, stem: str) -> bool:
    return any(key.startswith(stem) for key in one)


def _when(one: Resource, *stems: str) -> str:
    """When the first of these is that is there, in whatever form: `onsetDateTime`, `performedPeriod`."""
    for stem in stems:
        for key in (stem, f"{stem}DateTime", f"{stem}Period", f"{stem}Instant"):
            value = one.get(key)
            if isinstance(value, Mapping):
                value = value.get("start") or value.get("end")
            if isinstance(value, str) and value[:4].isdigit():
                return value
    return ""


def _shown(number: float) -> str:
    """Six digits of a fraction, all of a whole number."""
    return str(int(number)) if float(number).is_integer() and abs(number) < _MOST_WHOLE else f"{number:.6g}"


def _value(one: Mapping[str, Any]) -> tuple[str, str] | None:
    """An observation's value and unit as text; None where it has none."""
    if isinstance(quantity := one.get("valueQuantity"), Mapping) and quantity.get("value") is not None:
        number, before = quantity["value"], str(quantity.get("comparator") or "")
        shown = _shown(number) if isinstance(number, int | float) else str(number)[:40]
        return f"{before}{shown}", _line(str(quantity.get("unit") or quantity.get("code") or ""))
    for name in ("valueString", "valueInteger", "valueBoolean", "valueDateTime"):
        if one.get(name) is not None:
            return _line(str(one[name])), ""
    if isinstance(concept := one.get("valueCodeableConcept"), Mapping):
        return _text(concept), ""
    return None
