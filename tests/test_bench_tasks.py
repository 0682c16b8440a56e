"""Tasks as files, and the datasets they name."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.artifacts import find
from edgekit.bench import datasets
from edgekit.bench.answers import AnswerTask
from edgekit.bench.kinds import kinds
from edgekit.bench.parsers import PARSERS, first_named, first_yes_or_no
from edgekit.bench.tasks import parse, task
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.inputs.image import PictureWarning
from edgekit.inputs.labels import LABELS

GOOD: dict[str, Any] = {
    "name": "mine", "title": "Mine", "kind": "finding", "dataset": "phantoms", "limit": 5,
    "prompt": "What?", "parser": "first-label", "max_tokens": 9,
}  # fmt: skip


def test_every_shipped_task_is_valid_and_names_a_dataset() -> None:
    names = find.names("benchmarks")
    assert {"labels-phantom", "finding-phantom", "yesno-phantom", "fidelity-decoder", "latency"} <= set(names)
    for name in names:
        loaded = task(name)
        assert datasets.source(loaded.dataset).name == loaded.dataset
        assert loaded.name == name


def test_no_task_uses_phantoms_that_somebody_trained_on() -> None:
    images = pytest.importorskip("edgekit.reference_models.training.images", exc_type=ImportError)
    seeds = {loaded.seed for name in find.names("benchmarks") if (loaded := task(name)).dataset == "phantoms"}
    assert not seeds & {images.TRAIN_SEED, images.VALIDATION_SEED, images.TEST_SEED}
    assert min(seeds) > 700_000  # far from the seeds of training, proof and demonstration


def test_a_new_task_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    lines = [f"{key} = {value!r}" for key, value in GOOD.items() if key != "name"]
    (tmp_path / "benchmarks" / "mine.toml").write_text("\n".join(lines))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    loaded = task("mine")
    assert isinstance(loaded, AnswerTask)
    assert (loaded.name, loaded.max_tokens) == ("mine", 9)
    assert "mine" in find.names("benchmarks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "poem"}, "task mine: kind: 'poem'"),
        ({"limit": 0}, "task mine: limit: 0\nallowed: greater than 0"),
        ({"limitt": 3}, "task mine: limitt: is unknown\nallowed: .*limit"),
        ({"max_tokens": "many"}, "task mine: max_tokens: 'many'\nallowed: a valid integer"),
        ({"parser": "magic"}, "task mine: parser: 'magic'\nallowed: 'first-label' or 'first-yes-or-no' or"),
    ],
)
def test_a_wrong_file_names_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse({**GOOD, **change})


def _other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, str):
        return f"{value}, really"
    return (*value, "{name}, really") if isinstance(value, tuple) else value + 1


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # a kind or a parser that does not exist
@pytest.mark.parametrize("kind", kinds())
def test_every_word_of_a_task_is_in_its_identity(kind: str) -> None:
    shipped = next(loaded for name in find.names("benchmarks") if (loaded := task(name)).kind == kind)
    fields = list(kinds()[kind].model_fields)
    assert {"name", "kind", "title", "dataset", "limit", "seed", "margin"} < set(fields)
    for field in fields:
        changed = shipped.model_copy(update={field: _other(getattr(shipped, field))})
        assert changed.sha256 != shipped.sha256, field


@pytest.mark.parametrize(
    ("parser", "answer", "expected"),
    [
        ("first-label", "  NODULE. ", "nodule"),
        ("first-label", "I see a pleural effusion and a nodule", "pleural effusion"),
        ("first-label", "nodular", None),
        ("first-label", "", None),
        ("first-yes-or-no", "Yes, there is.", "yes"),
        ("first-yes-or-no", "No - yes would be wrong", "no"),
        ("first-yes-or-no", "nothing", None),
    ],
)
def test_parsers(parser: str, answer: str, expected: str | None) -> None:
    assert PARSERS[parser].parse(answer, ("nodule", "pleural effusion")) == expected


def test_answers_are_parsed_by_whole_words() -> None:
    names = [label.name for label in LABELS]
    assert first_named("Bacterial pneumonia, not normal.", names) == "bacterial pneumonia"
    assert first_named("abnormal", names) is None
    assert first_named("A, I think", ("A", "B")) == "A"  # what options are called
    assert first_yes_or_no("Yes.") == "yes"
    assert first_yes_or_no("nothing") is None


def test_phantoms_are_reproducible_and_need_no_data() -> None:
    first, second, other = (datasets.load("phantoms", 16, seed, None) for seed in (7, 7, 8))
    assert first.sha256 == second.sha256 != other.sha256
    assert len({sample.truth for sample in first.samples}) == 8
    assert first.images[0].dtype == np.uint8


def _hash(*samples: datasets.Sample) -> str:
    return datasets.Dataset(datasets.source("phantoms"), samples).sha256


@pytest.mark.parametrize("question", ["", "A or B?"])
@pytest.mark.parametrize("options", [(), ("A", "B")])
@pytest.mark.parametrize(
    "change",
    [
        {"truth": "B"},
        {"image": np.ones((2, 3), np.uint8)},
        {"image": np.zeros((3, 2), np.uint8)},
        {"image": None},
        {"question": "A, or B?"},
        {"options": ("A", "B", "C")},
        {"options": ("B", "A")},
    ],
    ids=str,
)
def test_everything_that_a_sample_holds_is_in_the_datas_identity(
    change: dict[str, Any], question: str, options: tuple[str, ...]
) -> None:
    sample = datasets.Sample("A", "1", np.zeros((2, 3), np.uint8), question, options)
    assert _hash(sample) == _hash(replace(sample)) != _hash(replace(sample, **change))


@pytest.mark.parametrize("question", ["", "A or B?"])
def test_which_samples_belong_together_is_in_the_datas_identity(question: str) -> None:
    image = np.zeros((2, 3), np.uint8)
    hashes = {
        _hash(*(datasets.Sample("nodule", group, image, question) for group in groups))
        for groups in ("aab", "abb", "aba", "abc")
    }
    assert len(hashes) == 4


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """60 test images of 20 patients, 5 training images, and 6 MRI slices that belong to nobody."""
    rows = [(f"x{i}.jpg", "chest x-ray", ("normal", "viral pneumonia")[i % 2], f"p{i % 20}", "test") for i in range(60)]
    rows += [(f"t{i}.jpg", "chest x-ray", "normal", f"q{i}", "train") for i in range(5)]
    rows += [(f"m{i}.jpg", "brain mri", "glioma", "", "test") for i in range(6)]
    with zipfile.ZipFile(tmp_path / "radiology-160.zip", "w") as out:
        table = io.StringIO()
        csv.writer(table).writerows([("file", "modality", "label", "patient", "split"), *rows])
        out.writestr("index.csv", table.getvalue())
        for i, (name, *_) in enumerate(rows):
            data = io.BytesIO()
            Image.fromarray(np.full((16, 16), i, np.uint8)).save(data, "JPEG")
            out.writestr(name, data.getvalue())
    return tmp_path


def test_real_images_are_one_a_patient_of_the_test_split(archive: Path) -> None:
    loaded = datasets.load("chest-xray", 100, 0, archive)
    assert len(loaded.images) == 20
    patients = {round(float(image.mean())) % 20 for image in loaded.images}
    assert len(patients) == 20
    assert max(image.mean() for image in loaded.images) < 60  # none of the training images, which are brighter
    assert [sample.truth for sample in datasets.load("brain-mri", 100, 0, archive).samples] == ["glioma"] * 6
    assert len(datasets.load("chest-xray", 7, 0, archive).images) == 7


def test_odd_images_are_said_once_with_their_number(archive: Path) -> None:
    with pytest.warns(PictureWarning) as caught:
        datasets.load("chest-xray", 100, 0, archive)
    assert len(caught) == 1
    assert "20 of 20 images are odd, as is " in str(caught[0].message)


def test_every_source_states_licence_and_citation() -> None:
    for name in find.names("benchmarks/datasets"):
        source = datasets.source(name)
        assert source.license
        assert source.citation
        assert source.note
    assert datasets.source("chest-xray").license == "CC BY 4.0"
    assert "Kermany" in datasets.source("chest-xray").citation
    assert "split by image, not by patient" in datasets.source("brain-mri").note


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('reader = "paper"', "dataset own: reader: 'paper' is unknown\nallowed: corpus, fhir, folder, hub, "),
        ('modality = "smell"', "dataset own: modality: there are no labels of 'smell'"),
        ('licence = "CC0"', "dataset own: licence"),
        ('license = ""', "dataset own: license"),
    ],
)
def test_a_wrong_data_set_is_refused_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    folder = tmp_path / "benchmarks" / "datasets"
    folder.mkdir(parents=True)
    stated = {"title": '"t"', "citation": '"c"', "license": '"l"', "note": '"n"', "reader": '"phantoms"'}
    key, value = change.split(" = ")
    (folder / "own.toml").write_text("\n".join(f"{k} = {v}" for k, v in {**stated, key: value}.items()))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        datasets.source("own")
    assert said in str(caught.value)


def test_a_data_set_of_ones_own_is_one_file(archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (archive / "radiology-160.zip").rename(archive / "ours.zip")
    folder = tmp_path / "benchmarks" / "datasets"
    folder.mkdir(parents=True)
    text = (find.folders("benchmarks/datasets")[0] / "brain-mri.toml").read_text()
    (folder / "ours.toml").write_text(text.replace("radiology-160.zip", "ours.zip"))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    assert [sample.truth for sample in datasets.load("ours", 4, 0, archive).samples] == ["glioma"] * 4
    with pytest.raises(
        UsageError, match=r"the dataset ours needs a data folder\ntry: --data DIR, with ours\.zip in it"
    ):
        datasets.load("ours", 4, 0, None)


def test_data_without_a_sample_or_with_unknown_labels(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a table would be made of nothing, or of answers that no label can be."""
    path = archive / "radiology-160.zip"
    with zipfile.ZipFile(path) as old:
        rows, images = old.read("index.csv").decode(), {name: old.read(name) for name in old.namelist()[1:]}

    def with_rows(text: str) -> None:
        with zipfile.ZipFile(path, "w") as new:
            new.writestr("index.csv", text)
            for name, data in images.items():
                new.writestr(name, data)

    with_rows(rows.replace(",test", ",train"))
    with pytest.raises(InputError, match=r"the dataset brain-mri: radiology-160\.zip holds nothing of brain mri"):
        datasets.load("brain-mri", 5, 0, archive)
    with_rows(rows.replace("glioma", "gliom"))
    with pytest.raises(InputError, match="the dataset brain-mri: the label 'gliom' is unknown") as caught:
        datasets.load("brain-mri", 5, 0, archive)
    assert str(caught.value.allowed).startswith("glioma, meningioma")


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("labels", {"prompts": ["a {foo}"]}, r"prompts\.0: unknown \{foo\}, allowed: \{name\}, \{phrase\}"),
        ("labels", {"prompts": ["a {name"]}, r"prompts\.0: not a text with placeholders"),
        ("labels", {"prompts": ["a {}"]}, r"prompts\.0: unknown \{\}"),
        ("yesno", {"prompt": "Is it?"}, r"prompt: no \{question\} in it"),
        ("yesno", {"prompt": "{question} {name}"}, r"prompt: unknown \{name\}"),
    ],
)
def test_placeholders_are_checked_before_anything_runs(kind: str, change: dict[str, Any], said: str) -> None:
    right = find.load("benchmarks", f"{kind}-phantom")
    with pytest.raises(UsageError, match=f"task mine: {said}"):
        parse({"name": "mine", **right, **change})


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the dataset chest-xray needs a data folder\ntry: --data DIR"):
        datasets.load("chest-xray", 5, 0, None)
    with pytest.raises(InputError, match=r"radiology-160\.zip does not exist"):
        datasets.load("chest-xray", 5, 0, tmp_path)
    with pytest.raises(UsageError, match=r"unknown dataset 'x'\nallowed: .*brain-mri, .*chest-xray, .*phantoms"):
        datasets.load("x", 5, 0, None)


def _damage(path: Path, how: str) -> None:
    if how == "no zip":
        path.write_bytes(b"nonsense")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        with zipfile.ZipFile(path, "w") as out:
            if how != "no index":
                out.writestr("index.csv", "file,modality,label,patient,split\na.jpg,brain mri,glioma,,test\n")
            if how == "no image":
                out.writestr("a.jpg", b"nonsense")


@pytest.mark.parametrize("how", ["no zip", "truncated", "no index", "missing image", "no image"])
def test_damaged_data(archive: Path, how: str) -> None:
    _damage(archive / "radiology-160.zip", how)
    with pytest.raises(EdgekitError, match=r"radiology-160\.zip: (damaged or not|a\.jpg: not an image)"):
        datasets.load("brain-mri", 5, 0, archive)


# ---------------------------------------------------------------- one image among many, and whose data it is


def _rewrite(archive: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> None:
    """The archive with other members; None leaves one out."""
    path = archive / "radiology-160.zip"
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, data in members:
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)


def _picture(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    return data.getvalue()


UNREADABLE: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "damaged or not what it should be: m2.jpg"),
    "empty": (b"", "m2.jpg: not an image"),
    "text": (b"a text", "m2.jpg: not an image"),
    "cut off": (_picture(64, 64)[:-30], "m2.jpg: damaged or truncated"),
    "a pixel": (_picture(1, 1), "1 x 1 pixels"),
    "wide": (_picture(20_001, 3), "20001 x 3 pixels"),
    "large": (bytes(65_000_000), "unpacks to 65000000 bytes"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_one_unreadable_image_is_counted_as_failed(archive: Path, case: str) -> None:
    data, said = UNREADABLE[case]
    whole = datasets.load("brain-mri", 100, 0, archive)
    _rewrite(archive, lambda name, old: data if name == "m2.jpg" else old, compression=zipfile.ZIP_DEFLATED)
    loaded = datasets.load("brain-mri", 100, 0, archive)
    assert (len(loaded.samples), len(loaded.images)) == (5, 5)
    (unread,) = loaded.unread
    assert said in str(unread.problem)
    assert str(archive) not in str(unread.problem)
    assert loaded.sha256 != whole.sha256


def test_a_damaged_member_and_an_unknown_packing_are_counted(archive: Path) -> None:
    """Of an archive whose index is right."""
    path = archive / "radiology-160.zip"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as opened:
        first, second = (opened.getinfo(name).header_offset for name in ("m0.jpg", "m1.jpg"))
    data[first + 60] ^= 0xFF  # its checksum is wrong
    central = data.rindex(b"m1.jpg")
    data[central - 46 + 8] |= 1  # it says that it is encrypted
    data[second + 6] |= 1
    path.write_bytes(data)
    assert len(datasets.load("brain-mri", 100, 0, archive).unread) == 2


def test_where_none_can_be_read_it_is_an_error(archive: Path) -> None:
    _rewrite(archive, lambda name, old: b"text" if name.startswith("m") else old)
    with pytest.raises(InputError, match=r"brain-mri: none of 6 can be read, the first: .*jpg: not an image"):
        datasets.load("brain-mri", 100, 0, archive)


def test_an_unknown_label_of_an_unreadable_image_is_refused_too(archive: Path) -> None:
    _rewrite(archive, lambda name, old: old.replace(b"m2.jpg,brain mri,glioma", b"m2.jpg,brain mri,?")
             if name == "index.csv" else (b"text" if name == "m2.jpg" else old))  # fmt: skip
    with pytest.raises(InputError, match=r"the label '\?' is unknown"):
        datasets.load("brain-mri", 100, 0, archive)


@pytest.mark.parametrize(
    ("index", "said"),
    [(b'"' + b"x" * 200_000 + b'"', "field larger than field limit"), (bytes(65_000_000), "index.csv is too large")],
    ids=["field", "bomb"],
)
def test_an_index_without_bounds_is_refused(archive: Path, index: bytes, said: str) -> None:
    _rewrite(archive, lambda name, old: index if name == "index.csv" else old, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=rf"radiology-160\.zip: .*{said}"):
        datasets.load("brain-mri", 100, 0, archive)


def test_a_truth_that_its_options_do_not_have_is_refused_in_texts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benchmarks" / "datasets").mkdir(parents=True)
    stated = 'title = "t"\ncitation = "c"\nlicense = "l"\nnote = "n"\nreader = "made-up"\n'
    (tmp_path / "benchmarks" / "datasets" / "exam.toml").write_text(stated)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    (tmp_path / "readers").mkdir()
    code = "from edgekit.bench.datasets.base import Reader, Sample\n"
    code += "READER = Reader('made-up', lambda *given: (Sample('C', 'x', question='A or B?', options=('A', 'B')),))\n"
    (tmp_path / "readers" / "made_up_reader.py").write_text(code)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path / "readers")])
    try:
        with pytest.raises(InputError, match="the dataset exam: the label 'C' is unknown\nallowed: A, B"):
            datasets.load("exam", 5, 0, None)
    finally:
        sys.modules.pop("edgekit.bench.datasets.made_up_reader", None)


def test_data_of_another_hash_is_nobodys(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither title, citation nor licence of the published set stand beside a figure of other data."""
    said = datasets.attribution("chest-xray", archive)
    found = hashlib.sha256((archive / "radiology-160.zip").read_bytes()).hexdigest()
    assert said["published"] == "no"
    assert said["file_sha256"] == found
    assert said["title"].startswith("not the published set")
    assert (said["citation"], said["license"]) == ("origin unknown", "unknown")
    assert found[:16] in said["note"]
    source = datasets.source("chest-xray")
    assert source.sha256 is not None
    assert source.sha256[:16] in said["note"]
    text = (find.folders("benchmarks/datasets")[0] / "chest-xray.toml").read_text()
    folder = tmp_path / "home" / "benchmarks" / "datasets"
    folder.mkdir(parents=True)
    (folder / "ours.toml").write_text(text.replace(source.sha256, found))
    (folder / "unstated.toml").write_text(re.sub(r"sha256 = .*\n", "", text))
    (folder / "wrong.toml").write_text(text.replace(source.sha256, "abc"))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    ours, unstated = datasets.attribution("ours", archive), datasets.attribution("unstated", archive)
    assert (ours["published"], ours["citation"]) == ("yes", source.citation)
    assert (unstated["published"], unstated["citation"]) == ("not stated", source.citation)
    with pytest.raises(UsageError, match="dataset wrong: sha256"):
        datasets.attribution("wrong", archive)
    assert datasets.attribution("phantoms", None)["published"] == "yes"
