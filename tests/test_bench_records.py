"""Questions about records: answers by hand, scores by hand, readers of records who are never wrong, or always."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_bench_answers import Answers, measured
from test_fhir import BUNDLES, PATIENT, allergy, bundle, medication, result

from edgekit.bench.datasets import Dataset, load, source
from edgekit.bench.datasets.base import Sample
from edgekit.bench.datasets.record_questions import narrative, questions
from edgekit.bench.tasks import task
from edgekit.errors import InputError, UsageError
from edgekit.metrics.record_answers import is_right, named
from edgekit.runtime.grammar.constraints import Lark

SOURCE = source("synthea")


def procedure(number: int, name: str, day: str) -> dict[str, Any]:
    return {"resourceType": "Procedure", "id": f"x{number}", "status": "completed", "code": {"text": name},
            "subject": {"reference": "Patient/p"}, "performedPeriod": {"start": f"{day}T08:00:00Z"}}  # fmt: skip


def encounter(number: int, day: str) -> dict[str, Any]:
    return {"resourceType": "Encounter", "id": f"e{number}", "status": "finished", "class": {"code": "AMB"},
            "subject": {"reference": "Patient/p"}, "period": {"start": f"{day}T08:00:00Z"}}  # fmt: skip


RECORD = (
    result(1, 7.25, "2019-01-02"), result(2, 6.5, "2020-03-04"), result(3, 99, "2021-01-01", "Odd"),
    result(4, 98, "2021-01-01", "Odd"), {**result(5, 3.0, "2022-01-01"), "status": "entered-in-error"},
    medication(1), medication(2), medication(3, "stopped"), allergy(1), allergy(2, "resolved"),
    procedure(1, "Appendectomy", "2010-01-01"), procedure(2, "Plain chest X-ray", "2011-01-01"),
    encounter(1, "2011-01-01"), encounter(2, "2021-06-07"),
)  # fmt: skip


def test_answers_are_those_that_people_read_out_of_the_bundle() -> None:
    asked = list(questions(json.loads(bundle(*RECORD))))
    found = {(one.topic, one.truth, one.evidence) for one in asked}
    assert found >= {
        ("last value", "6.5", ("Observation/o2",)),
        ("last date", "2020-03-04", ("Observation/o2",)),
        ("trend", "fell", ("Observation/o2", "Observation/o1")),
        ("medications", "aspirin 81 MG 1 | aspirin 81 MG 2", ("MedicationRequest/m1", "MedicationRequest/m2")),
        ("allergies", "allergen 1", ("AllergyIntolerance/a1",)),
        ("order", "Appendectomy", ("Procedure/x1", "Procedure/x2")),
        ("last encounter", "2021-06-07", ("Encounter/e2",)),
        ("not there", "", ()),
    }
    assert next(one for one in asked if one.topic == "medications").others == ("aspirin 81 MG 3",)
    assert not any("Odd" in one.question for one in asked)  # two values of one day: which is the last?


@pytest.mark.parametrize(
    ("topic", "answer", "truth", "others", "right"),
    [
        ("last value", "It was 6.5 % on 2020-03-04 [O1].", "6.5", ("HbA1c", "%"), True),
        ("last value", "6.5, before that 7.25 [O1, O2]", "6.5", (), False),
        ("last value", "Leukocytes [#/volume] in Blood was 6.5 10*3/uL [O12]", "6.5", ("Leukocytes", "10*3/uL"), True),
        ("last value", "Not in the record.", "6.5", (), False),
        ("last value", "65", "6.5", (), False),
        ("last date", "On 2020-03-04 [O1].", "2020-03-04", (), True),
        ("last date", "2020-03-04 or 2019-01-02", "2020-03-04", (), False),
        ("trend", "It fell.", "fell", (), True),
        ("trend", "It fell, then rose.", "fell", (), False),
        ("trend", "Decreased", "fell", (), True),
        ("trend", "", "fell", (), False),
        ("medications", "- Aspirin 81 MG\n- Lasix 40mg [M1]", "aspirin 81 MG | Lasix 40mg", ("aspirin",), True),
        ("medications", "Aspirin 81 MG", "aspirin 81 MG | Lasix 40mg", (), False),
        ("medications", "Lasix 40mg, aspirin", "Lasix 40mg", ("aspirin",), False),
        ("medications", "metoprolol 100 MG (Toprol)", "metoprolol 100 MG [Toprol]", (), True),
        ("allergies", "None recorded", "", (), True),
        ("allergies", "Penicillin", "", (), False),
        ("order", "Appendectomy [X2].", "Appendectomy", ("Plain chest X-ray",), True),
        ("order", "Appendectomy, then Plain chest X-ray", "Appendectomy", ("Plain chest X-ray",), False),
        ("not there", "Not in the record.", "", (), True),
        ("not there", "Not in the record, but about 0.01", "", (), False),
        ("not there", "0.01 ng/mL", "", (), False),
    ],
)
def test_what_is_right(topic: str, answer: str, truth: str, others: tuple[str, ...], right: bool) -> None:
    assert is_right(topic, answer, truth, others) is right


def test_a_topic_that_is_none_and_names_within_names() -> None:
    with pytest.raises(ValueError, match="no topic"):
        is_right("colour", "", "")
    assert named("Acetaminophen 325 MG / Codeine", ["acetaminophen 325 mg / codeine", "Acetaminophen 325 MG"]) == [
        "acetaminophen 325 mg / codeine"
    ]


# ---------------------------------------------------------------- models


class Reader(Answers):
    """Is told how to answer a sample, and sees what is shown of the record."""

    def __init__(self, samples: tuple[Sample, ...], say: Callable[[Sample, str], str]) -> None:
        self._by_question = {sample.question: sample for sample in samples}
        self._say = say
        super().__init__(self._answer)

    def _answer(self, text: str) -> str:
        return self._say(self._by_question[text.rpartition("Question: ")[2]], text)

    def tokenize(self, text: str) -> list[int]:
        return [*range(len(text.split()))]


def ids(text: str, *wanted: str) -> str:
    """The ids of the lines of a digest that have such a text, the first of each."""
    found = [re.search(rf"^\[(\w+)\] .*{re.escape(one)}", text, re.MULTILINE) for one in wanted]
    return f"[{', '.join(match[1] for match in found if match)}]"


def perfect(sample: Sample, text: str) -> str:
    """Answers from the truth, and cites the lines that say so."""
    if not sample.truth:
        return "Not in the record."
    names = sample.truth.split(" | ")
    if sample.topic in ("medications", "allergies"):
        return " ".join(f"{name} {ids(text, name)}." for name in names)
    if sample.topic == "order":
        return f"{sample.truth} {ids(text, 'Appendectomy', 'Plain chest')}."
    if sample.topic == "trend":
        return f"It {sample.truth} {ids(text, ': 6.5', ': 7.25')}."
    return f"{sample.truth} {ids(text, sample.truth)}."


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, Dataset]:
    folder = tmp_path / "fhir"
    folder.mkdir()
    (folder / "Canary_Person.json").write_bytes(bundle(*RECORD))
    return tmp_path, load("synthea", 100, 0, tmp_path)


def test_a_reader_who_is_never_wrong(records: tuple[Path, Dataset]) -> None:
    _, dataset = records
    reader = Reader(dataset.samples, perfect)
    figures = measured(task("ehr-digest"), reader, dataset, reader)
    values = {name: figure.value for name, figure in figures.metrics.items()}
    assert values == {
        "exact_match": 1, "citation_precision": 1, "citation_recall": 1, "sentences_not_backed": 0,
        "medications_omitted": 0,
    }  # fmt: skip
    assert {*figures.details["by_topic"]} == {sample.topic for sample in dataset.samples}
    assert figures.details["medications_omitted_by_number"] == {"1 to 2": {"n": 1, "omitted": 0.0}}
    assert figures.paired is not None
    assert figures.paired.difference.value == 0
    assert all(isinstance(options.constraint, Lark) for options in reader.options if options)
    assert "Canary" not in json.dumps([message.text for message in reader.asked])


def test_what_is_left_out_and_cited_wrongly_is_counted(records: tuple[Path, Dataset]) -> None:
    """One of two medications; a value that is older, from a line that says so."""
    _, dataset = records

    def half(sample: Sample, text: str) -> str:
        if sample.topic == "medications":
            return f"aspirin 81 MG 1 {ids(text, '81 MG 1')}."
        return f"7.25 {ids(text, ': 7.25')}." if sample.topic == "last value" else perfect(sample, text)

    figures = measured(task("ehr-digest"), Reader(dataset.samples, half), dataset)
    assert figures.metrics["medications_omitted"].value == 0.5
    topics = {name: one["value"] for name, one in figures.details["by_topic"].items()}
    assert (topics["medications"], topics["last value"], topics["trend"]) == (0, 0, 1)
    counts = Counter(sample.topic for sample in dataset.samples)
    cited = len(dataset.samples) - counts["not there"]
    assert figures.metrics["citation_precision"].value == pytest.approx(1 - 1 / cited)
    assert figures.metrics["citation_recall"].value == pytest.approx(1 - 1.5 / cited)


@pytest.mark.parametrize("name", ["ehr-narrative", "ehr-raw"])
def test_what_is_shown_is_cut_at_the_budget_and_cites_nothing(records: tuple[Path, Dataset], name: str) -> None:
    _, dataset = records
    reader = Reader(dataset.samples, perfect)
    short = task(name).model_copy(update={"budget": 5})
    figures = measured(short, reader, dataset)
    assert {*figures.metrics} == {"exact_match", "medications_omitted"}
    whole = narrative(json.loads(bundle(*RECORD))) if name == "ehr-narrative" else bundle(*RECORD).decode()
    for message in reader.asked:
        shown = message.text.partition("\n\nAnswer from")[0]
        assert len(shown.split()) <= 5
        assert whole.startswith(shown)
    assert all(options is not None and options.constraint is None for options in reader.options)


def test_a_record_that_does_not_fit_is_counted_and_not_asked(records: tuple[Path, Dataset]) -> None:
    _, dataset = records
    reader = Reader(dataset.samples, perfect)
    figures = measured(task("ehr-digest").model_copy(update={"budget": 5}), reader, dataset)
    assert (figures.metrics["exact_match"].value, figures.details["too_long_share"]) == (0, 1)
    assert not reader.asked


# ---------------------------------------------------------------- data


def test_topics_come_in_turn_and_seeds_choose(records: tuple[Path, Dataset]) -> None:
    folder, dataset = records
    eight = load("synthea", 8, 0, folder).samples
    assert len({sample.topic for sample in eight}) == 8
    assert [one.id for one in load("synthea", 8, 0, folder).samples] == [one.id for one in eight]
    assert load("synthea", 100, 1, folder).sha256 != dataset.sha256
    assert not any("Canary" in f"{one.id}{one.group}{one.question}" for one in dataset.samples)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "no bundle is there"),
        ({"a.json": b"{}"}, "allowed: a Bundle"),
        ({"a.json": b"{"}, "a.json"),
        ({"a.json": bundle(*RECORD), "b.json": bundle(*RECORD[:5])}, "the patient of a.json again"),
        ({"a.json": bundle(PATIENT | {"id": "q"}, *RECORD)}, "2 patients"),
        ({"a.json": bundle({"resourceType": "Encounter", "id": "e", "period": "2020"})}, "not as FHIR R4 has it"),
        ({"a.json": b"[" * 100_000}, "a.json"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, files: dict[str, bytes], match: str) -> None:
    (tmp_path / "fhir").mkdir()
    for name, data in files.items():
        (tmp_path / "fhir" / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        load("synthea", 10, 0, tmp_path)


def test_other_data_has_no_records() -> None:
    with pytest.raises(UsageError, match="no records"):
        task("ehr-digest").items(Dataset(SOURCE, (Sample("a", "b", question="?"),)))


@pytest.mark.skipif(not BUNDLES, reason="no bundles are at hand")
def test_of_real_bundles_the_digest_shows_what_answers_need(capsys: Any) -> None:
    """A reader who copies what stands behind a name is right about most values: the digest shows the last ones."""
    dataset = load("synthea", 60, 0, BUNDLES[0].parents[1])

    def copies(sample: Sample, text: str) -> str:
        name = sample.question.removeprefix("What was the last value of ").rstrip("?")
        shown = " ".join(name.replace("[", "(").replace("]", ")").split())
        lines = re.findall(rf"^\[(O\d+)\] (\S+) {re.escape(shown)}: (\S+)", text, re.MULTILINE)
        newest = max(lines, key=lambda line: line[1], default=None)
        return f"{newest[2]} [{newest[0]}]." if newest else "Not in the record."

    figures = measured(task("ehr-digest"), Reader(dataset.samples, copies), dataset)
    topics = {name: one["value"] for name, one in figures.details["by_topic"].items()}
    assert topics["last value"] == 1
    assert topics["not there"] == 1


def test_a_model_is_asked_about_records(medgemma_artifact: Path, records: tuple[Path, Dataset]) -> None:
    """A real one, of which nothing is expected but that it is asked and cites no line that is none."""
    import edgekit

    _, dataset = records
    with edgekit.open(medgemma_artifact) as model:
        figures = measured(task("ehr-digest"), model, Dataset(SOURCE, dataset.samples[:3]))
    assert figures.metrics["exact_match"].n == 3
