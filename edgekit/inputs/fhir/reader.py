"""A bundle of FHIR R4 (HL7, 4.0.1) as plain JSON, bounded, of one patient: nothing else of it is believed.

The library `fhir.resources` defaults to R5 and calls files of Synthea's wrong, so files are read without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import json_value, read_bounded
from edgekit.errors import InputError

MOST_BYTES = 64 << 20
_MOST_ENTRIES = 20_000_000
_MOST_RESOURCES = 200_000
_SUBJECT = ("subject", "patient")
_DSTU2, _STU3 = ("MedicationOrder", "DiagnosticOrder"), ("ProcedureRequest", "ReferralRequest")
_OTHERS = {**dict.fromkeys(_DSTU2, "DSTU2"), **dict.fromkeys(_STU3, "STU3")}
_MEDICATION = ("MedicationRequest", "MedicationStatement")
Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One patient's resources.

    Attributes:
        name: the file, as messages call it.
        patient: the Patient resource; empty where the bundle has none.
        resources: all others, in the order of the file, each once.
        places: reference -> resource: `Observation/1`, `urn:uuid:...`.
        notes: what to know of it.
    """

    name: str
    patient: Resource
    resources: tuple[Resource, ...] = field(repr=False)
    places: Mapping[str, Resource] = field(repr=False)
    notes: tuple[str, ...] = ()

    def named(self, reference: Any, holder: Resource) -> Resource | None:
        """What a reference leads to, in the bundle or contained in the resource that it stands in; None for nowhere."""
        found = reference.get("reference") if isinstance(reference, Mapping) else None
        if not isinstance(found, str):
            return None
        if found.startswith("#"):
            inside = holder.get("contained")
            every = inside if isinstance(inside, list) else []
            return next((one for one in every if isinstance(one, Mapping) and one.get("id") == found[1:]), None)
        plain = found.partition("/_history/")[0]  # of a version
        return self.places.get(plain) or self.places.get("/".join(plain.split("/")[-2:]))


def read(source: Path | bytes, name: str | None = None) -> Record:
    """A record.

    Args:
        source: a bundle's file, or its bytes.
        name: what messages call it; its path for None.

    Raises:
        InputError: it is no JSON, no bundle, too large, of another version of FHIR, or of several patients.
    """
    name = name or (str(source) if isinstance(source, Path) else "the record")
    raw = read_bounded(source, InputError, MOST_BYTES) if isinstance(source, Path) else source
    if len(raw) > MOST_BYTES:
        raise InputError(f"{name}: too large", allowed=f"at most {MOST_BYTES >> 20} MB")
    bundle = json_value(raw, name, InputError, most_entries=_MOST_ENTRIES)
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        kind = bundle.get("resourceType") if isinstance(bundle, dict) else type(bundle).__name__
        raise InputError(f"{name}: a {kind!s:.40}", allowed="a Bundle of FHIR R4")
    entries = bundle.get("entry") or []
    if not isinstance(entries, list) or len(entries) > _MOST_RESOURCES:
        raise InputError(f"{name}: entry is no list, or of more than {_MOST_RESOURCES} resources")
    places, resources = dict[str, Resource](), []
    for number, entry in enumerate(entries):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            raise InputError(f"{name}: entry {number} has no resource")
        keys = [f"{resource['resourceType']}/{resource['id']}"] if isinstance(resource.get("id"), str) else []
        keys += [entry["fullUrl"]] if isinstance(entry.get("fullUrl"), str) else []
        if any(places.get(key, resource) != resource for key in keys):
            raise InputError(f"{name}: entry {number}: two resources of one id that differ", remedy="export it anew")
        if not any(key in places for key in keys):
            resources.append(resource)
        places |= dict.fromkeys(keys, resource)
    _check_version(name, resources)
    patient = _patient(name, resources, places)
    rest = tuple(one for one in resources if one["resourceType"] != "Patient")
    notes = () if patient else ("the bundle has no Patient: nothing says whose record it is",)
    return Record(name, patient, rest, places, notes)


def _check_version(name: str, resources: Sequence[Resource]) -> None:
    """Raise InputError for another version of FHIR, by what its resources look like: few bundles state theirs."""
    for resource in resources:
        kind = resource["resourceType"]
        said = _OTHERS.get(kind)
        if kind in ("Condition", "AllergyIntolerance") and isinstance(resource.get("clinicalStatus"), str):
            said = "STU3 or earlier"
        elif kind in _MEDICATION and "medication" in resource:
            said = "R5 or later"
        if kind == "Encounter" and isinstance(resource.get("class"), list):
            said = "R5 or later"
        if said:
            raise InputError(f"{name}: a bundle of FHIR {said}: its {kind} says so", allowed="FHIR R4 (4.0)")


def _patient(name: str, resources: Sequence[Resource], places: Mapping[str, Resource]) -> Resource:
    """The one patient. Raises InputError where resources are of several."""
    patients = [one for one in resources if one["resourceType"] == "Patient"]
    if len(patients) > 1:
        raise InputError(f"{name}: a bundle of {len(patients)} patients", allowed="one patient's record")
    others = set()
    for reference in _subjects(resources):
        found = places.get(reference)
        if found is None or (patients and found is not patients[0] and found.get("resourceType") == "Patient"):
            others.add(reference)
    if len(others) > (0 if patients else 1):
        raise InputError(f"{name}: its resources speak of other patients than its own", allowed="one patient's record")
    return patients[0] if patients else {}


def _subjects(resources: Sequence[Resource]) -> Iterator[str]:
    for resource in resources:
        for name in _SUBJECT:
            found = resource.get(name)
            reference = found.get("reference") if isinstance(found, dict) else None
            if isinstance(reference, str) and not reference.startswith(("Group/", "Device/", "Location/")):
                yield reference
