"""Records: read within limits, told in a budget, cited; no name of a patient anywhere."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, TooLongError
from edgekit.inputs.fhir import cite
from edgekit.inputs.fhir.digest import Digest, digest
from edgekit.inputs.fhir.facts import facts
from edgekit.inputs.fhir.reader import read

BUNDLES = sorted((Path(__file__).resolve().parents[2] / "shared" / "data" / "fhir").glob("*.json"))
PATIENT = {"resourceType": "Patient", "id": "p", "gender": "female", "birthDate": "1970-05-01",
           "name": [{"family": "Canary"}], "address": [{"city": "Canaryville"}]}  # fmt: skip


def coded(text: str, code: str = "1") -> dict[str, Any]:
    return {"text": text, "coding": [{"system": "x", "code": code, "display": text}]}


def bundle(*resources: dict[str, Any], patient: dict[str, Any] | None = PATIENT) -> bytes:
    every = [*([patient] if patient else []), *resources]
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": one} for one in every]}).encode()


def medication(number: int, status: str = "active", name: str = "aspirin 81 MG") -> dict[str, Any]:
    return {"resourceType": "MedicationRequest", "id": f"m{number}", "status": status, "intent": "order",
            "subject": {"reference": "Patient/p"}, "authoredOn": f"20{number % 20:02}-01-01",
            "medicationCodeableConcept": coded(f"{name} {number}")}  # fmt: skip


def allergy(number: int, status: str = "active") -> dict[str, Any]:
    return {"resourceType": "AllergyIntolerance", "id": f"a{number}", "code": coded(f"allergen {number}"),
            "patient": {"reference": "Patient/p"}, "clinicalStatus": coded("s", status)}  # fmt: skip


def result(number: int, value: float, date: str, name: str = "Hemoglobin A1c") -> dict[str, Any]:
    return {"resourceType": "Observation", "id": f"o{number}", "status": "final", "code": coded(name, "4548-4"),
            "subject": {"reference": "Patient/p"}, "effectiveDateTime": f"{date}T10:00:00Z",
            "valueQuantity": {"value": value, "unit": "%"}}  # fmt: skip


def words(text: str) -> int:
    return len(text.split())


def told(data: bytes, question: str = "", budget: int = 5000) -> Digest:
    record = read(data)
    return digest(record, facts(record), question, words, budget)


# ---------------------------------------------------------------- real bundles


def active_by_hand(path: Path) -> tuple[set[str], set[str]]:
    """Active medications and allergies, by a second reading of the JSON."""
    every = [entry["resource"] for entry in json.loads(path.read_text())["entry"]]
    medications = {f"MedicationRequest/{one['id']}" for one in every
                   if one["resourceType"] == "MedicationRequest" and one["status"] == "active"}  # fmt: skip
    allergies = {f"AllergyIntolerance/{one['id']}" for one in every if one["resourceType"] == "AllergyIntolerance"
                 and one["clinicalStatus"]["coding"][0]["code"] == "active"}  # fmt: skip
    return medications, allergies


@pytest.mark.skipif(not BUNDLES, reason="needs the bundles")
@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem[:12])
@pytest.mark.parametrize("budget", [400, 1500, 6000])
def test_every_active_medication_and_allergy_is_in_it(path: Path, budget: int) -> None:
    record = read(path)
    found = digest(record, facts(record), "What was the last blood pressure?", words, budget)
    medications, allergies = active_by_hand(path)
    there = {fact.resource for fact in found.facts.values()}
    assert medications | allergies <= there
    assert found.tokens <= budget
    assert all(f"[{name}] {fact.line}" in found.text.splitlines() for name, fact in found.facts.items())


@pytest.mark.skipif(not BUNDLES, reason="needs the bundles")
@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem[:12])
def test_a_real_bundle_is_told_quickly_the_same_and_without_a_name(path: Path) -> None:
    began = time.process_time()
    record = read(path)
    first = digest(record, facts(record), "Which medications?", words, 3000)
    assert time.process_time() - began < 10
    shuffled = json.loads(path.read_text())
    shuffled["entry"].reverse()
    other = read(json.dumps(shuffled).encode(), str(path))
    assert digest(other, facts(other), "Which medications?", words, 3000).text == first.text
    patient = next(e["resource"] for e in shuffled["entry"] if e["resource"]["resourceType"] == "Patient")
    names = {part for name in patient["name"] for part in [name.get("family", ""), *name.get("given", [])]}
    names |= {one["value"] for one in patient["identifier"]} | {patient["birthDate"]}
    names |= {place["city"] for place in patient["address"]}
    assert not [name for name in names if name and name in first.text]


# ---------------------------------------------------------------- what is chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 12), st.integers(0, 200), st.integers(50, 3000))
def test_what_is_active_is_never_left_out(medicines: int, allergies: int, results: int, budget: int) -> None:
    data = bundle(
        *(medication(n, "active" if n % 3 else "stopped") for n in range(medicines)),
        *(allergy(n, "active" if n % 2 else "resolved") for n in range(allergies)),
        *(result(n, 5 + n / 10, f"20{n % 20:02}-02-03") for n in range(results)),
    )
    try:
        found = told(data, "A1c?", budget)
    except TooLongError:
        return
    there = {fact.resource for fact in found.facts.values()}
    assert {f"MedicationRequest/m{n}" for n in range(medicines) if n % 3} <= there
    assert {f"AllergyIntolerance/a{n}" for n in range(allergies) if n % 2} <= there
    assert found.tokens <= budget
    shown = sum(fact.section == "results" for fact in found.facts.values())
    assert found.left_out.get("results", 0) == results - shown


def test_what_the_question_names_comes_first_and_the_newest_before() -> None:
    others = [result(n, 1, f"2020-01-{n + 1:02}", f"Something else {n}") for n in range(28)]
    wanted = [result(100 + n, 6 + n / 10, f"201{n}-05-01") for n in range(3)]
    found = told(bundle(*others, *wanted), "What was the last hemoglobin A1c?", 120)
    values = [fact.value for fact in found.facts.values() if "A1c" in fact.text]
    assert values == ["6.2", "6.1", "6"]
    assert "older left out" in found.text


def test_errors_and_refuted_entries_are_no_facts() -> None:
    wrong = {**result(1, 9, "2020-01-01"), "status": "entered-in-error"}
    refuted = {**allergy(1), "verificationStatus": coded("x", "refuted")}
    found = facts(read(bundle(wrong, refuted, {**medication(1), "status": "entered-in-error"})))
    assert found.all == ()
    assert found.in_error == 3


def test_names_that_differ_by_what_nobody_sees_are_one() -> None:
    same = [result(n, 4 + n, f"201{n}-01-01", name) for n, name in enumerate(["Mass/volume", "Mass/\u200bvolume"])]
    assert {fact.text for fact in facts(read(bundle(*same))).all} == {"Mass/volume"}


@pytest.mark.parametrize(
    ("reference", "more"),
    [
        ("#inside", {"contained": [{"resourceType": "Medication", "id": "inside", "code": coded("warfarin 5 MG")}]}),
        ("Medication/x", {}),
        ("Medication/x/_history/3", {}),
        ("https://clinic.example/fhir/Medication/x", {}),
    ],
)
def test_an_active_medication_has_its_name_wherever_that_stands(reference: str, more: dict[str, Any]) -> None:
    one = medication(1) | more
    del one["medicationCodeableConcept"]
    one["medicationReference"] = {"reference": reference}
    there = {"resourceType": "Medication", "id": "x", "code": coded("warfarin 5 MG")}
    assert "warfarin 5 MG" in told(bundle(one, there)).text


def test_what_must_not_be_given_is_not_told_as_given() -> None:
    text = told(bundle(medication(1) | {"doNotPerform": True}, medication(2) | {"doNotPerform": False})).text
    (forbidden,) = [line for line in text.splitlines() if "NOT TO BE GIVEN" in line]
    assert "aspirin 81 MG 1" in forbidden


def test_of_two_results_of_a_day_the_later_one_comes_first_with_its_time() -> None:
    """By the clock, across zones: 23:30 in New York is later than 03:00 in London on the day that follows."""
    def at(number: int, value: float, when: str) -> dict[str, Any]:
        return result(number, value, "2020-01-01", "Potassium") | {"effectiveDateTime": when}

    moments = ("2020-01-01T08:15:00+00:00", "2020-01-01T20:45:00+00:00", "2020-01-01T12:00:00Z")
    data = bundle(*(at(n, value, when) for n, value, when in zip((1, 2, 3), (5.9, 3.1, 4.4), moments, strict=True)))
    lines = [line for line in told(data, "potassium").text.splitlines() if "Potassium" in line]
    assert [line.partition(": ")[2] for line in lines] == ["3.1 %", "4.4 %", "5.9 %"]
    assert ["20:45" in lines[0], "12:00" in lines[1], "08:15" in lines[2]] == [True, True, True]
    other = bundle(at(1, 1.5, "2020-01-02T03:00:00+00:00"), at(2, 2.5, "2020-01-01T23:30:00-05:00"))
    lines = [line for line in told(other, "potassium").text.splitlines() if "Potassium" in line]
    assert ["2.5 %" in lines[0], "1.5 %" in lines[1]] == [True, True]
    assert not any("23:30" in line for line in lines)  # one of its day


def test_a_sentence_may_name_the_time_of_its_line() -> None:
    made = told(bundle(result(1, 5.9, "2020-01-01"), result(2, 3.1, "2020-01-01") | {
        "effectiveDateTime": "2020-01-01T20:45:00Z"}))  # fmt: skip
    (last,) = [name for name, fact in made.facts.items() if fact.value == "3.1"]
    assert [one.mark for one in cite.check(f"It was 3.1 at 20:45 [{last}].", made)] == ["cited"]
    assert [one.mark for one in cite.check(f"It was 3.1 at 21:45 [{last}].", made)] == ["wrong"]


@pytest.mark.parametrize(("value", "shown"), [(1234567, "1234567"), (1234567.0, "1234567"), (35.863000001, "35.863")])
def test_numbers_are_told_as_people_write_them(value: float, shown: str) -> None:
    assert f": {shown} %" in told(bundle(result(1, value, "2020-01-01"))).text


def test_a_medication_by_reference_and_a_pressure_of_two_components() -> None:
    drug = {"resourceType": "Medication", "id": "d", "code": coded("ramipril")}
    order = {**medication(1), "medicationReference": {"reference": "Medication/d"}}
    del order["medicationCodeableConcept"]
    pressure = {**result(1, 0, "2020-01-01"), "code": coded("Blood pressure"), "component": [
        {"code": coded("Systolic"), "valueQuantity": {"value": 120, "unit": "mm[Hg]"}},
        {"code": coded("Diastolic"), "valueQuantity": {"value": 80, "unit": "mm[Hg]"}},
    ]}  # fmt: skip
    del pressure["valueQuantity"]
    text = told(bundle(drug, order, pressure)).text
    assert "ramipril" in text
    assert "Systolic: 120 mm(Hg)" in text
    assert "Diastolic: 80 mm(Hg)" in text


# ---------------------------------------------------------------- what is refused


def changed(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(result(1, 5, "2020-01-01")), **more}


BAD: dict[str, tuple[bytes, str]] = {
    "none": (b"", "not valid JSON"),
    "deep": (b'{"resourceType":"Bundle","entry":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "JSON|deep|nested"),
    "twice": (b'{"resourceType":"Bundle","resourceType":"Bundle"}', "twice|not valid JSON"),
    "another": (b'{"resourceType":"Patient"}', "a Patient"),
    "list": (b"[]", "a list"),
    "entries": (b'{"resourceType":"Bundle","entry":{}}', "entry is no list|no list"),
    "no resource": (b'{"resourceType":"Bundle","entry":[{}]}', "entry 0 has no resource"),
    "two patients": (bundle({**PATIENT, "id": "q"}), "a bundle of 2 patients"),
    "another's": (bundle(changed(subject={"reference": "Patient/q"})), "of other patients than its own"),
    "STU3": (bundle({**allergy(1), "clinicalStatus": "active"}), "FHIR STU3 or earlier"),
    "R5": (bundle({**medication(1), "medication": {"concept": coded("x")}}), "FHIR R5"),
    "DSTU2": (bundle({"resourceType": "MedicationOrder"}), "FHIR DSTU2"),
    "differ": (bundle(result(1, 5, "2020-01-01"), result(1, 6, "2020-01-01")), "two resources of one id"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_record_of_one_patient_is_refused(name: str) -> None:
    data, said = BAD[name]
    if name == "entries":
        data = b'{"resourceType":"Bundle","entry":{"a":1}}'
    with pytest.raises(InputError, match=said) as caught:
        read(data)
    assert "Canary" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["code", "coding", "text", "status", "period", "start", "valueQuantity", "value", "display"]),
        inner, max_size=4),
    max_leaves=12,
), st.sampled_from(["Observation", "Condition", "MedicationRequest", "AllergyIntolerance", "Encounter", "Procedure",
                    "DiagnosticReport", "Immunization"]))  # fmt: skip
def test_resources_of_any_shape_are_read_or_refused(inside: Any, kind: str) -> None:
    resource = {**(inside if isinstance(inside, dict) else {"code": inside}), "resourceType": kind, "id": "1"}
    try:
        found = told(bundle(resource))
    except InputError:
        return
    assert all("\n" not in fact.line and "[" not in fact.line for fact in found.facts.values())


# ---------------------------------------------------------------- what cites


@pytest.fixture
def record() -> Digest:
    return told(bundle(result(1, 6.1, "2020-03-02"), result(2, 5.4, "2018-03-02"), medication(1), allergy(1)))


MARKS = {
    "The last A1c was 6.1 % on 2020-03-02 [O1].": "cited",
    "The last A1c was 6.7 % on 2020-03-02 [O1].": "wrong",
    "The last A1c was 6.1 % on 2020-03-03 [O1].": "wrong",
    "The last A1c was 5.4 % [O1].": "wrong",
    "It rose from 5.4 to 6.1 % [O1, O2].": "cited",
    "The last A1c was 6.1 %.": "uncited",
    "The last A1c was 6.1 % [O9].": "wrong",
    "Not in the record.": "not in the record",
    "She takes aspirin [M1].": "cited",
}


@pytest.mark.parametrize("text", MARKS)
def test_each_sentence_is_held_against_what_it_cites(text: str, record: Digest) -> None:
    (found,) = cite.check(text, record)
    assert found.mark == MARKS[text], found
    both = cite.check(f"{text} {text}\n{text}", record)
    assert [one.mark for one in both] == [MARKS[text]] * 3


def test_a_sentence_that_names_nothing_of_what_it_cites_is_said() -> None:
    """No number is wrong in it, and another medication stands there."""
    made = told(bundle(medication(1, name="warfarin 5 MG")))
    right, other = (cite.check(f"The patient takes {name} [M1].", made)[0] for name in ("warfarin", "insulin"))
    assert (right.mark, right.why) == ("cited", "")
    assert (other.mark, other.why) == ("cited", "no word of it stands in M1")


def test_the_grammar_admits_ids_that_are_there_and_no_others(record: Digest) -> None:
    guidance = pytest.importorskip("llguidance")
    grammar = guidance.LLMatcher.grammar_from_lark(cite.grammar(record))
    assert not guidance.LLMatcher.validate_grammar(grammar)
    assert '"O1"' in cite.grammar(record)
    assert '"O9"' not in cite.grammar(record)


def test_ten_thousand_canaries_are_nowhere() -> None:
    """Whatever identifies a patient stays out: of the digest, and of every error."""
    canaries = [f"canary{number}x" for number in range(10_000)]
    patient = {**PATIENT, "id": canaries[0], "name": [{"family": one} for one in canaries[1:5000]],
               "address": [{"line": [one]} for one in canaries[5000:8000]],
               "identifier": [{"value": one} for one in canaries[8000:9000]],
               "telecom": [{"value": one} for one in canaries[9000:]]}  # fmt: skip
    one = {**result(1, 5, "2020-01-01"), "subject": {"reference": f"Patient/{canaries[0]}", "display": canaries[1]}}
    assert "canary" not in told(bundle(one, patient=patient)).text
    with pytest.raises(InputError) as caught:
        read(bundle(one, {**PATIENT, "id": canaries[3]}, patient=patient))
    assert "canary" not in str(caught.value)


def test_what_is_written_is_fhir_and_names_nobody(record: Digest) -> None:
    from datetime import UTC, datetime

    from edgekit.inputs.fhir.write import composition

    validated = pytest.importorskip("fhir.resources.R4B.composition").Composition
    answer = "The last A1c was 6.1 % [O1]. It is <b>high</b>. It was 9 % [O2]."
    made = composition("The A1c?", cite.check(answer, record), record, "MedGemma", "a stand-in", datetime.now(UTC))
    found = validated.model_validate_json(json.dumps(made))
    assert found.status == "preliminary"
    assert [one["reference"] for one in made["section"][0]["entry"]] == ["Observation/o1", "Observation/o2"]
    text = made["section"][0]["text"]["div"]
    assert "&lt;b&gt;high&lt;/b&gt;. (cites nothing)" in text
    assert "wrong by what it cites: 9 stands in none of O2" in text
    assert "Canary" not in json.dumps(made)


@pytest.mark.skipif(not BUNDLES, reason="needs the bundles")
def test_a_question_about_a_record(
    medgemma_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in answers nonsense, of which no sentence may pass for cited without holding."""
    from edgekit.cli import main

    words = ["ask", str(medgemma_artifact), "Which medications are active?", "--record", str(BUNDLES[0])]
    words += ["--max-tokens", "60", "--context", "6000", "--fhir-out", str(tmp_path / "answer.json"), "--json"]
    assert main(words) == 0
    told_ = json.loads(capsys.readouterr().out)["record"]
    medications, allergies = active_by_hand(BUNDLES[0])
    assert medications | allergies <= set(told_["resources"].values())
    assert told_["tokens"] < 6000
    assert json.loads((tmp_path / "answer.json").read_text())["resourceType"] == "Composition"
    assert main([*words[:3], "--fhir-out", "x.json"]) == 2


def test_a_record_that_a_context_has_no_room_for(
    medgemma_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli import main

    (tmp_path / "r.json").write_bytes(bundle(*(medication(n) for n in range(200))))
    words = ["ask", str(medgemma_artifact), "Which?", "--record", str(tmp_path / "r.json"), "--context", "1024"]
    assert main(words) == 1
    assert "active medications and allergies alone take" in capsys.readouterr().err
