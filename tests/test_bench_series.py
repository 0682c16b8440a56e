"""Studies in the benchmark: what `ask` shows of a series is what a task shows."""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from test_bench_answers import Answers, measured
from test_dicom_files import data_of, plain
from test_dicom_series import ct_slice, lay

from edgekit.bench import own
from edgekit.bench.datasets import Dataset, load
from edgekit.bench.tasks import task
from edgekit.errors import InputError, UsageError
from edgekit.inputs.dicom import study
from edgekit.inputs.image import read
from edgekit.inputs.message import Image


def series(folder: Path, value: int) -> Path:
    return lay(folder, [ct_slice(value + 10 * place, 5.0 * place, 3 - place) for place in (2, 0, 1)])


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A table whose images are a series' folder, an archive of it, a multi-frame file, a slice, a picture, and none."""
    series(tmp_path / "ct", 0)
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in series(tmp_path / "other", 100).iterdir():
            archive.write(path, path.name)
    frames = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    (tmp_path / "us.dcm").write_bytes(data_of(plain(frames, NumberOfFrames=3, Modality="US")))
    (tmp_path / "one.dcm").write_bytes(ct_slice(40, 0, 1))
    Pillow.fromarray(np.full((8, 9, 3), 7, np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "two").mkdir()
    lay(tmp_path / "two", [ct_slice(1, 0, 1, PatientID="1"), ct_slice(1, 5, 2, PatientID="2")])
    names = ("ct", "ct.zip", "us.dcm", "one.dcm", "p.png", "two")
    rows = zip(names, ("alpha", "beta", "gamma", "delta", "epsilon", "zeta"), strict=True)
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "question", "answer"])
        writer.writerows([[name, name, f"What is {answer}?", answer] for name, answer in rows])
    return tmp_path / "q.csv"


def loaded(questions: Path) -> tuple[Any, Dataset]:
    asked = next(one for one in own.tasks(None, str(questions)) if one.kind == "vqa")
    return asked, load(asked.dataset, 100, 0, None)


def test_a_task_shows_what_ask_shows(questions: Path) -> None:
    asked, dataset = loaded(questions)
    model = Answers(lambda text: text.rpartition("What is ")[2].partition("?")[0])
    figures = measured(asked, model, dataset)
    assert figures.metrics["tokenized_f1"].value == 1
    shown = {message.text.rpartition("What is ")[2].partition("?")[0]: message.parts for message in model.asked}
    assert {*shown} == {"alpha", "beta", "gamma", "delta", "epsilon"}
    for name, answer in (("ct", "alpha"), ("ct.zip", "beta"), ("us.dcm", "gamma"), ("one.dcm", "delta")):
        expected = study.parts(study.read(questions.parent / name), name)
        parts = shown[answer][:-1]
        assert [part for part in parts if isinstance(part, str)] == [part for part in expected if isinstance(part, str)]
        for own_picture, right in zip(pixels(parts), pixels(expected), strict=True):
            np.testing.assert_array_equal(own_picture, right)


def pixels(parts: Any) -> list[Any]:
    """Of each image among the parts of a message, in colour."""
    return [np.asarray(read(part.source).image.convert("RGB")) for part in parts if isinstance(part, Image)]


def test_what_cannot_be_read_is_counted_and_named(questions: Path) -> None:
    _, dataset = loaded(questions)
    assert [sample.id for sample in dataset.unread] == ["two"]
    assert "canary" not in str(dataset.unread[0].problem)


def test_tasks_of_single_pictures_refuse_a_series(questions: Path) -> None:
    _, dataset = loaded(questions)
    with pytest.raises(UsageError, match="series of several pictures"):
        _ = dataset.images
    sample = dataset.samples[0]
    boxed = Dataset(dataset.source, (sample.__class__("", "g", sample.image, boxes={"aorta": (0, 0, 1, 1)}),))
    with pytest.raises(UsageError, match="a box in a series"):
        task("anatomy-boxes").model_copy(update={"structures": ("aorta",)}).items(boxed)


def test_folders_of_labels_hold_dicom_files(tmp_path: Path) -> None:
    for label, value in (("low", -500), ("high", 900)):
        (tmp_path / "in" / label).mkdir(parents=True)
        series(tmp_path / "in" / label, value)
    shutil.copy(tmp_path / "in" / "low" / "000.dcm", tmp_path / "in" / "low" / "DICOMDIR")
    asked = own.tasks(str(tmp_path / "in"), None)[0]
    dataset = load(asked.dataset, 100, 0, None)
    assert sorted(sample.truth for sample in dataset.samples) == ["high"] * 3 + ["low"] * 3
    assert all(image.shape in {(4, 4), (4, 4, 3)} for image in dataset.images)


def test_the_same_series_twice_is_seen(questions: Path) -> None:
    """Whatever its files are called: whichever answer is given, one of them is wrong."""
    again = questions.parent / "again"
    again.mkdir()
    for number, path in enumerate(sorted((questions.parent / "ct").iterdir(), reverse=True)):
        shutil.copy(path, again / f"{number}.dcm")
    (tmp := questions.parent / "labels.csv").write_text("image,label\nct,low\nagain,high\np.png,low\n")
    with pytest.raises(InputError, match="several labels"):
        load(own.tasks(str(tmp), None)[0].dataset, 100, 0, None)
