"""The data sets of benchmarks/datasets: those at hand as they are, the others as small files of their layout."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data_files import REAL, lines, picture, table

from edgekit.artifacts import find
from edgekit.bench import datasets
from edgekit.bench.tasks import parse
from edgekit.errors import EdgekitError, InputError, UsageError

here = pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
TEXTS = ("medqa", "pubmedqa", "medmcqa", "mmlu-med", "medxpertqa-text", "afrimed-qa")
pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small
IMAGES = ("vqa-rad", "slake", "chexpert", "nih-cxr14", "chest-imagenome")


def load(name: str, data: Path, limit: int = 10_000) -> tuple[datasets.Sample, ...]:
    return datasets.load(name, limit, 0, data).samples


def test_every_set_says_where_it_is_from_and_what_it_lacks() -> None:
    assert {*TEXTS, *IMAGES} <= set(find.names("benchmarks/datasets"))
    for name in (*TEXTS, *IMAGES):
        source = datasets.source(name)
        assert source.url is not None
        assert source.shows_images == (name in IMAGES)
        with pytest.raises(UsageError) as caught:
            datasets.load(name, 5, 0, None)
        assert caught.value.message == f"the dataset {name} needs a data folder"
        for part in (f"--data DIR, with {source.file} in it", source.title, source.url, source.license):
            assert part in str(caught.value.remedy), (name, part)
        assert ("--download" in str(caught.value.remedy)) == (source.hub is not None)


@here
def test_medqa_is_what_a_plain_reading_says() -> None:
    samples = {sample.id: sample for sample in load("medqa", REAL)}
    rows = [json.loads(line) for line in (REAL / "qa" / "medqa_input.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == len(rows) == 1273
    for row in rows:
        sample = samples[row["id"]]
        choices = " ".join(f"({letter}) {text}" for letter, text in zip("ABCD", sample.options, strict=True))
        assert f"{sample.question} Answer Choices: {choices}".split() == row["question"].split()
        assert [sample.truth] == [sample.options["ABCD".index(letter)] for letter in row["label"]]
    assert datasets.attribution("medqa", REAL)["published"] == "yes"


@here
def test_pubmedqa_is_its_500_test_questions() -> None:
    samples = load("pubmedqa", REAL)
    truth = json.loads((REAL / "qa" / "pubmedqa_test_ground_truth.json").read_text())
    assert {sample.id: sample.truth for sample in samples} == truth
    assert Counter(sample.truth for sample in samples) == {"yes": 276, "no": 169, "maybe": 55}  # as published
    whole = json.loads((REAL / "qa" / "ori_pqal.json").read_text())
    for sample in samples:
        assert sample.context.split("\n\n") == [part.strip() for part in whole[sample.id]["CONTEXTS"]]
        assert sample.options == ("yes", "no", "maybe")


@here
def test_vqa_rad_is_googles_test_split() -> None:
    samples = load("vqa-rad", REAL)
    with (REAL / "vqa_rad" / "vqa_rad_google_split.tsv").open() as stream:
        wanted = {
            row["QID_unique"] for row in csv.DictReader(stream, delimiter="\t") if row["SPLIT_BALANCED"] == "test"
        }
    assert {sample.id for sample in samples} == wanted
    assert (len(samples), len({sample.group for sample in samples})) == (735, 103)
    rows = {str(row["qid"]): row for row in json.loads((REAL / "vqa_rad" / "vqa_rad.json").read_text())}
    for sample in samples:
        row = rows[sample.id]
        assert (sample.question, sample.group) == (row["question"].strip(), row["image_name"])
        assert sample.truth.lower() == str(row["answer"]).strip().lower()
        assert sample.topic == row["answer_type"].strip()
        assert (sample.options == ("yes", "no")) == (sample.truth.lower() in ("yes", "no"))
        assert sample.image is not None


@here
def test_images_of_training_are_left_out_of_the_brain_mri() -> None:
    import hashlib
    import zipfile

    samples = load("brain-mri", REAL)
    with zipfile.ZipFile(REAL / "radiology-160.zip") as archive:
        rows = list(csv.DictReader(archive.read("index.csv").decode().splitlines()))
        hashes = {row["file"]: hashlib.sha256(archive.read(row["file"])).hexdigest()
                  for row in rows if row["modality"] == "brain mri"}  # fmt: skip
    other = {hashes[row["file"]] for row in rows if row["file"] in hashes and row["split"] != "test"}
    test = {row["file"] for row in rows if row["file"] in hashes and row["split"] == "test"}
    assert {sample.id for sample in samples} == {name for name in test if hashes[name] not in other}
    assert len(test) - len(samples) > 100


def test_medmcqa_counts_from_one_in_the_file(tmp_path: Path) -> None:
    asked = {"question": "Q?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "subject_name": "S"}
    rows = [{"id": f"u{i}", **asked, "cop": i} for i in (1, 4)]
    lines(tmp_path / "medmcqa" / "dev.json", rows)
    found = {sample.id: (sample.truth, sample.topic) for sample in load("medmcqa", tmp_path)}
    assert found == {"u1": ("a", "S"), "u4": ("d", "S")}


def test_medxpertqa_has_ten_options_in_its_text(tmp_path: Path) -> None:
    options = [f"answer {i}" for i in range(10)]
    text = "Which?\nAnswer Choices: " + " ".join(f"({k}) {t}" for k, t in zip("ABCDEFGHIJ", options, strict=True))
    lines(tmp_path / "medxpertqa_text_input.jsonl", [{"id": "Text-1", "question": text, "label": ["J"]}])
    (sample,) = load("medxpertqa-text", tmp_path)
    assert (sample.question, list(sample.options), sample.truth) == ("Which?", options, "answer 9")


def test_afrimed_qa_takes_experts_questions_with_one_answer(tmp_path: Path) -> None:
    options = json.dumps({f"option{i}": f"o{i}" for i in range(1, 6)})
    head = (
        "sample_id",
        "question_type",
        "tier",
        "split",
        "question_clean",
        "answer_options",
        "correct_answer",
        "specialty",
    )
    rows = [
        ("one", "mcq", "expert", "test", "Q?", options, "option3", "Surgery"),
        ("several", "mcq", "expert", "test", "Q?", options, "option3,option4", "Surgery"),
        ("crowd", "mcq", "crowd", "test", "Q?", options, "option3", "Surgery"),
        ("training", "mcq", "expert", "train", "Q?", options, "option3", "Surgery"),
        ("short", "saq", "expert", "test", "Q?", "", "", "Surgery"),
    ]
    table(tmp_path / "afri_med_qa_15k_v2.4_phase_2_15275.csv", [head, *rows])
    (sample,) = load("afrimed-qa", tmp_path)
    assert (sample.id, sample.truth, sample.topic, len(sample.options)) == ("one", "o3", "Surgery", 5)


def test_slake_is_read_in_english_with_its_images(tmp_path: Path) -> None:
    rows = [
        {
            "qid": 1,
            "img_name": "xmlab1/source.jpg",
            "question": "Is it?",
            "answer": "Yes",
            "q_lang": "en",
            "answer_type": "CLOSED",
        },
        {
            "qid": 2,
            "img_name": "xmlab1/source.jpg",
            "question": "Was?",
            "answer": "X",
            "q_lang": "zh",
            "answer_type": "OPEN",
        },
        {
            "qid": 3,
            "img_name": "xmlab2/source.jpg",
            "question": "What?",
            "answer": "Liver",
            "q_lang": "en",
            "answer_type": "OPEN",
        },
    ]
    (tmp_path / "slake").mkdir()
    (tmp_path / "slake" / "test.json").write_text(json.dumps(rows))
    for number in (1, 2):
        picture(tmp_path / "slake" / "imgs" / f"xmlab{number}" / "source.jpg", number)
    first, second = load("slake", tmp_path)
    assert (first.id, first.truth, first.options, first.topic) == ("1", "yes", ("yes", "no"), "CLOSED")
    assert (second.id, second.truth, second.options, second.group) == ("3", "Liver", (), "xmlab2/source.jpg")
    assert second.image is not None


def test_chexpert_is_read_in_frontal_views_by_patient(tmp_path: Path) -> None:
    findings = [finding.column for finding in datasets.source("chexpert").findings]
    paths = [f"test/patient6474{i}/study1/view1_{view}.jpg" for i in (1, 2) for view in ("frontal", "lateral")]
    for number, name in enumerate(paths):
        picture(tmp_path / "chexpert" / name, number)
    rows = [(name, *("1.0" if i == 1 else "0.0" for i in range(len(findings)))) for name in paths]
    table(tmp_path / "chexpert" / "test_labels.csv", [("Path", *findings), *rows])
    samples = load("chexpert", tmp_path)
    assert [sample.group for sample in samples] == ["patient64741", "patient64742"]
    assert [name for name, there in samples[0].findings.items() if there] == ["cardiomegaly"]
    assert len(samples[0].findings) == 13


def test_nih_cxr14_has_the_radiologists_findings(tmp_path: Path) -> None:
    head = ("Image Index", "Patient ID", "Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
    table(tmp_path / "nih-cxr14" / "test_labels.csv", [head, ("00000211_006.png", "211", "NO", "YES", "YES", "NO")])
    picture(tmp_path / "nih-cxr14" / "images" / "00000211_006.png")
    (sample,) = load("nih-cxr14", tmp_path)
    there = {"lung opacity": True, "pneumothorax": True, "fracture": False, "nodule or mass": False}
    assert (sample.group, dict(sample.findings)) == ("211", there)


def test_boxes_of_one_image_are_one_sample(tmp_path: Path) -> None:
    """DICOM ids name the images, which are JPEGs."""
    head = ("image_id", "bbox_name", "x1", "y1", "x2", "y2", "original_x1", "original_y1", "original_x2", "original_y2")
    rows = [("a.dcm", "right lung", 1, 2, 3, 4, 10, 20, 30, 40), ("b.dcm", "spine", 1, 2, 3, 4, 1, 2, 3, 4),
            ("a.dcm", "spine", 1, 2, 3, 4, 12, 2, 18, 48)]  # fmt: skip
    table(tmp_path / "chest-imagenome" / "gold_bbox_coordinate_annotations_1000images.csv", [head, *rows])
    for number, name in enumerate(("a.jpg", "b.jpg")):
        picture(tmp_path / "chest-imagenome" / "images" / name, number)
    first, second = load("chest-imagenome", tmp_path)
    assert first.boxes == {"right lung": (20, 10, 40, 30), "spine": (2, 12, 48, 18)}  # top, left, bottom, right
    assert (second.id, second.boxes) == ("b.dcm", {"spine": (2, 1, 4, 3)})
    assert first.image is not None


PUBMED = {"1": {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "yes"},
          "2": {"QUESTION": "Is it?", "CONTEXTS": ["Three."], "final_decision": "no"}}  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "said"),
    [(None, r"pubmedqa_test_ground_truth\.json does not exist\ntry: the ids of the test split: PubMedQA"),
     ({"2": "yes"}, "2: ori_pqal.json does not have this question and answer"),
     ({"3": "no"}, "3: ori_pqal.json does not")],
)  # fmt: skip
def test_pubmedqas_two_files_must_agree(tmp_path: Path, answers: Any, said: str) -> None:
    (tmp_path / "ori_pqal.json").write_text(json.dumps(PUBMED))
    if answers:
        (tmp_path / "pubmedqa_test_ground_truth.json").write_text(json.dumps(answers))
    with pytest.raises(InputError, match=said):
        load("pubmedqa", tmp_path)


def test_vqa_rad_without_its_split(tmp_path: Path) -> None:
    rows = [{"qid": i, "image_name": "a.jpg", "question": "?", "answer": "x", "answer_type": "OPEN"} for i in (1, 2)]
    (tmp_path / "vqa_rad").mkdir()
    (tmp_path / "vqa_rad" / "vqa_rad.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"vqa_rad_google_split\.tsv does not exist\ntry: Google's split, from https"):
        load("vqa-rad", tmp_path)
    head = ("QID_unique", "SPLIT_BALANCED")
    table(tmp_path / "vqa_rad" / "vqa_rad_google_split.tsv", [head, (1, "test")], "\t")
    with pytest.raises(InputError, match="1 questions have no split"):
        load("vqa-rad", tmp_path)


def test_a_task_on_a_data_set_of_ones_own_is_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks" / "datasets"
    folder.mkdir(parents=True)
    (folder / "ours.toml").write_text(
        'title = "Ours"\nmodality = "fundus photograph"\ncitation = "we"\nlicense = "ours"\nnote = "none"\n'
        'reader = "folder"\nfile = "ours"\n[[labels]]\nname = "no glaucoma"\n'
        '[[labels]]\nname = "glaucoma"\nphrase = "a glaucoma"\n'
    )
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    picture(tmp_path / "data" / "ours" / "glaucoma" / "1.png", 1)
    picture(tmp_path / "data" / "ours" / "no_glaucoma" / "2.png", 2)
    task = parse({"name": "ours", "title": "t", "kind": "labels", "dataset": "ours", "limit": 9, "prompts": ["{name}"]})
    loaded = datasets.load("ours", 9, 0, tmp_path / "data")
    assert [item.truth for item in task.items(loaded)] == ["glaucoma", "no glaucoma"]
    assert [label.question for label in loaded.labels] == [
        "Is this fundus photograph free of glaucoma?",
        "Is there glaucoma in this image?",
    ]
    assert loaded.labels[1].phrase == "a glaucoma"
    picture(tmp_path / "data" / "ours" / "cataract" / "3.png", 3)
    with pytest.raises(EdgekitError, match="the label 'cataract' is unknown\nallowed: no glaucoma, glaucoma"):
        datasets.load("ours", 9, 0, tmp_path / "data")
