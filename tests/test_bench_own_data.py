"""A user's own images and questions, as they lie on her disk: no file of ours is written for them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_stubs import InProcess
from data_files import lines, picture, table
from test_bench_new_variants import MANIFEST

from edgekit.artifacts.manifest import Preprocessing
from edgekit.bench import Sweep, bench, datasets, markdown, own, plan, preflight, runner, worker
from edgekit.bench.cells import ModelRef
from edgekit.bench.datasets.own import images, questions
from edgekit.bench.kinds import Task, kinds
from edgekit.bench.records import Measurement
from edgekit.bench.subjects import Subject, TableRow
from edgekit.bench.tasks import parse
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.inputs.image import PictureWarning
from edgekit.runtime.base import Float, Generation, Model

asks = pytest.mark.skipif(not {"choice", "vqa"} <= set(kinds()), reason="needs the kinds of tasks about questions")


pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small


def load(task: Task, limit: int = 1000) -> datasets.Dataset:
    return datasets.load(task.dataset, limit, 0, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three labels, nine images of two kinds, three that are broken, and what systems leave in folders."""
    root = tmp_path / "My images"
    for number in range(9):
        label = ("no_tumor", "Glioma", "pituitary tumor")[number % 3]
        picture(root / label / f"{number}.{('jpg', 'PNG', 'jpeg')[number // 3]}", number, colour=number == 4)
    whole = (root / "Glioma" / "1.jpg").read_bytes()
    (root / "Glioma" / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "Glioma" / "empty.png").touch()
    (root / "no_tumor" / "text.jpg").write_text("not an image")
    for name in ("Thumbs.db", ".DS_Store", "._0.jpg", "notes.txt"):
        (root / "no_tumor" / name).write_text("x")
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    return root


def test_a_folder_a_label(folder: Path) -> None:
    labels, asked, *_ = own.tasks(str(folder), None)
    loaded = load(labels)
    assert {(sample.id, sample.truth) for sample in loaded.samples} == {
        (path.relative_to(folder).as_posix(), path.parent.name.replace("_", " ")) for path in folder.rglob("[0-9].*")
    }
    assert [label.name for label in loaded.labels] == ["Glioma", "no tumor", "pituitary tumor"]
    assert [label.question for label in loaded.labels] == [
        "Is there Glioma in this image?",
        "Is this image free of tumor?",
        "Is there pituitary tumor in this image?",
    ]
    reasons = sorted(str(sample.problem) for sample in loaded.unread)
    assert [reason.split(":")[0] for reason in reasons] == [
        "Glioma/cut off.jpg",
        "Glioma/empty.png",
        "no_tumor/text.jpg",
    ]
    assert str(folder) not in "".join(reasons)
    assert {sample.image.ndim for sample in loaded.samples if sample.image is not None} == {2, 3}
    item = asked.items(loaded)[0]
    assert item.answers in (("Glioma", "no tumor", "pituitary tumor"), ())
    assert "Glioma, no tumor, pituitary tumor" in item.messages[0].text


def test_the_figures_name_no_place_and_the_same_images_elsewhere_are_the_same(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "My images"
    shutil.copytree(folder, copy)
    first, second = (own.tasks(str(place), None)[0] for place in (folder, copy))
    assert first.sha256 == second.sha256
    assert load(first).sha256 == load(second).sha256
    picture(copy / "Glioma" / "1.jpg", 77)
    assert load(first).sha256 != load(second).sha256
    said = datasets.attribution(first.dataset, None)
    assert (said["title"], said["license"]) == ("own images in My images", "the user's own data")
    assert str(tmp_path) not in json.dumps(said)


def test_tasks_on_own_data_survive_the_way_to_a_worker(folder: Path) -> None:
    for task in own.tasks(str(folder), None):
        back = parse(json.loads(json.dumps(task.model_dump(mode="json"))))
        assert back == task
        assert hash(back.dataset) == hash(task.dataset)
        assert load(back, 3).sha256 == load(task, 3).sha256


def test_folders_of_splits_are_read_in_their_test_part(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    shutil.copytree(folder, root / "test")
    for number, label in enumerate(("no_tumor", "Glioma", "pituitary tumor")):
        picture(root / "Training" / label / "t.png", 50 + number)
    labels, *_ = own.tasks(str(root), None)
    assert len(load(labels).samples) == 9
    shutil.copy(root / "test" / "Glioma" / "1.jpg", root / "Training" / "Glioma" / "again.jpg")
    with pytest.raises(InputError, match="1 cases of one split are in another") as caught:
        load(labels)
    assert caught.value.items == ("test/Glioma/1.jpg (test) and Training/Glioma/again.jpg (train): the same image",)


def test_the_same_image_in_two_folders_is_refused(folder: Path) -> None:
    shutil.copy(folder / "Glioma" / "1.jpg", folder / "no_tumor" / "x.jpg")
    with pytest.raises(InputError) as caught:
        load(own.tasks(str(folder), None)[0])
    assert caught.value.items == ("Glioma/1.jpg (Glioma), no_tumor/x.jpg (no tumor)",)


def excel(folder: Path, path: Path, **options: str) -> Path:
    """What a spreadsheet makes of it on Windows, in a country of decimal commas."""
    files = sorted(folder.rglob("[0-9].*"))
    rows = [(f"{folder.name}\\{f.parent.name}\\{f.name}", f.parent.name, f"p{i // 2}", "Größe: 3,5;\nzweite Zeile")
            for i, f in enumerate(files)]  # fmt: skip
    return table(path, [("File Name", "Diagnosis", "Patient ID", "Bemerkung"), *rows], ";", "utf-8-sig")


def test_a_table_of_a_spreadsheet(folder: Path, tmp_path: Path) -> None:
    labels, *_ = own.tasks(str(excel(folder, tmp_path / "Liste.csv")), None)
    loaded = load(labels)
    assert [len(loaded.samples), len({sample.group for sample in loaded.samples})] == [9, 5]
    assert [label.name for label in loaded.labels] == ["Glioma", "no tumor", "pituitary tumor"]


def test_a_folder_with_a_table_is_that_table(folder: Path, tmp_path: Path) -> None:
    """As Hugging Face's folders of images have it."""
    flat = tmp_path / "flat"
    rows = []
    for number in range(4):
        picture(flat / f"{number}.png", number)
        rows.append({"file_name": f"{number}.png", "label": "ab"[number % 2]})
    lines(flat / "metadata.jsonl", rows)
    labels, *_ = own.tasks(str(flat), None)
    assert [sample.truth for sample in load(labels).samples] == ["a", "b", "a", "b"]


WRONG: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "no label": (
        [("file", "age"), ("a.png", "3")],
        r"no column of label among file, age\nallowed: .*label: label, class",
    ),
    "no image": ([("path to it", "diagnosis"), ("a.png", "x")], r"no column of image among path to it, diagnosis\n"),
    "no answer": (
        [("question", "reply"), ("Q?", "3")],
        r"no column of answer among question, reply\nallowed: .*correct_answer",
    ),
    "neither": ([("x", "y"), ("Q?", "3")], r"no column of image and of label among x, y"),
    "one label": (
        [("file", "label"), ("a.png", "x"), ("b.png", "x")],
        "1 different labels in the column 'label'\nallowed: 2 to",
    ),
    "context": (
        [("context", "question", "answer"), ("c", "Q?", "3")],
        "a column 'context' beside open questions\ntry: put",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_without_what_is_needed_says_what_is_there(tmp_path: Path, case: str) -> None:
    rows, said = WRONG[case]
    with pytest.raises(EdgekitError, match=said):
        own.tasks(str(table(tmp_path / "t.csv", rows)), None)


def test_names_that_nobody_expects(tmp_path: Path) -> None:
    """Braces, other scripts, line breaks: labels are texts, and no part of a prompt's form."""
    labels = ["{question}", "气胸", "a\nb", "50 % {x"]
    for number, label in enumerate(labels):
        picture(tmp_path / "in{}" / label / "1.png", number)
    embed, asked, *_ = own.tasks(str(tmp_path / "in{}"), None)
    loaded = load(embed)
    assert {sample.truth for sample in loaded.samples} == {"{question}", "气胸", "a b", "50 % {x"}
    assert len(asked.items(loaded)) == len(embed.items(loaded)) == 4
    rows = [("file", "label"), ("a.png", "x" * 300), ("b.png", "y")]
    with pytest.raises(InputError, match=r"t\.csv: labels\.0\.name: 'x+'?.*\nallowed: .*at most 200") as caught:
        own.tasks(str(table(tmp_path / "t.csv", rows)), None)
    assert caught.value.remedy == "name labels and columns in 1 to 200 characters, without control characters"


def test_many_labels_are_not_listed_in_a_question(tmp_path: Path) -> None:
    rows = [("file", "label"), *((f"{i}.png", f"a rather long label, number {i}") for i in range(200))]
    _, asked, *_ = own.tasks(str(table(tmp_path / "t.csv", rows)), None)
    assert asked.model_dump()["prompt"] == "Which finding does the image show? Answer with its name alone."


def test_what_is_no_data_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: does not exist\nallowed: a table"):
        images(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"0 folders with images in it\nallowed: one folder for each label"):
        images(str(tmp_path))
    with pytest.raises(UsageError, match="is a folder\nallowed: a table"):
        questions(str(tmp_path))


@asks
def test_questions_with_options_are_choices(tmp_path: Path) -> None:
    rows = [
        {"question": f"Which is {i}?", "A": "one", "B": "two", "C": "three", "answer": "ABC"[i], "subject": "sums"}
        for i in range(3)
    ]
    (task,) = own.tasks(None, str(lines(tmp_path / "exam.jsonl", rows)))
    assert task.kind == "choice"
    items = task.items(load(task))
    assert [item.truth for item in items] == ["A", "B", "C"]
    assert {item.topic for item in items} == {"sums"}
    assert "Which is 0?\n(A) one (B) two (C) three\n" in items[0].messages[0].text


@asks
def test_questions_about_images_are_answered_in_words(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png", 1)
    rows = [{"image": "pictures/a.png", "question": "Is there a nodule?", "answer": "Yes", "patient": 7},
            {"image": "pictures/a.png", "question": "Where?", "answer": "left lung", "patient": 7}]  # fmt: skip
    task, answers = own.tasks(None, str(lines(tmp_path / "q.jsonl", rows)))
    assert task.kind == "vqa"
    assert [item.messages[0].text for item in answers.items(load(answers))] == ["Is there a nodule?", "Where?"]
    first, second = task.items(load(task))
    assert (first.truth, first.answers, second.truth, second.answers) == ("yes", ("yes", "no"), "left lung", ())
    assert first.group == second.group == "7"
    assert first.image is not None
    assert second.messages[0].text.startswith("Where? ")


# ---------------------------------------------------------------- from the option to the report


class Embedder(Model):
    """Knows a label by the brightness of an image, and is wrong about every image that is colourful."""

    abilities = frozenset({"embed_image"})

    def classify(self, images: Sequence[object], labels: Sequence[str | Sequence[str]]) -> Float:
        import numpy as np

        scores = np.zeros((len(images), len(labels)), np.float32)
        for row, image in enumerate(images):
            scores[row, 1 if getattr(image, "ndim", 0) == 3 else 0] = 1
        return scores

    def close(self) -> None:
        """Nothing to free."""


def measured(
    monkeypatch: pytest.MonkeyPatch, ability: str, sweep: Sweep, model: Model
) -> tuple[list[Measurement], str]:
    shown = Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    rows = (TableRow("good", "variant", ModelRef("artifact", "good"), "good", "good"),)
    manifest = MANIFEST.model_copy(update={"preprocessing": shown})
    subject = Subject(Path("artifact"), manifest, None, frozenset({ability}), rows, 10)
    monkeypatch.setattr(runner, "subjects", lambda *given: [subject])
    monkeypatch.setattr(preflight, "check", lambda *given: None)  # these artifacts have no files
    monkeypatch.setattr(worker, "open_row", lambda ref: model)
    names, drawn = plan.find.names, ["labels-phantom", "finding-phantom"]
    monkeypatch.setattr(plan.find, "names", lambda kind: drawn if kind == "benchmarks" else names(kind))
    results = bench(sweep, progress=False, executor=InProcess())
    assert results.errors == ()
    return list(results.records[0].measurements), markdown(results)


def test_images_go_from_the_option_to_the_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep([Path("artifact")], images=str(folder), controls=())
    (only,), text = measured(monkeypatch, "embed_image", sweep, Embedder())
    assert (only.task, only.n, len(only.failed)) == ("own-images", 9, 3)
    right = [sample for sample in load(own.tasks(str(folder), None)[0]).samples
             if sample.image is not None and (sample.truth == "Glioma") == (sample.image.ndim == 2)
             and sample.truth in ("Glioma", "no tumor")]  # fmt: skip
    assert only.metrics["accuracy"].value == pytest.approx(len(right) / 9)
    assert "n = 9 of 12" in text
    assert "own images in My images: the user's own data" in text
    assert "phantoms only" not in text


def test_a_limit_bounds_every_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep([Path("artifact")], images=str(folder), controls=(), limit=4)
    (only,), _ = measured(monkeypatch, "embed_image", sweep, Embedder())
    assert only.n + len(only.failed) == 4
    with pytest.raises(UsageError, match="a limit of 0 samples\nallowed: 1 or more"):
        bench(Sweep([Path("artifact")], limit=0))


def test_named_tasks_run_beside_own_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep([Path("artifact")], images=str(folder), tasks=["labels-phantom"], controls=(), limit=4)
    both, _ = measured(monkeypatch, "embed_image", sweep, Embedder())
    assert [one.task for one in both] == ["own-images", "labels-phantom"]


def test_data_that_no_model_can_be_asked_about(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep([Path("artifact")], images=str(folder), controls=())
    with pytest.raises(
        UsageError, match=r"own images in My images: none of these models can be asked .*\nallowed: a model that embeds"
    ):
        measured(monkeypatch, "sing", sweep, Embedder())


@asks
def test_questions_go_from_the_option_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(Embedder):
        abilities = frozenset({"generate"})

        def generate(self, messages: Sequence[object], **options: object):  # type: ignore[no-untyped-def]
            yield Generation("Final Answer: (B)", 10, 5, False, 0.1, 0.1)

    rows = [{"question": f"{i}?", "options": ["p", "q"], "answer": "pq"[i % 2]} for i in range(6)]
    sweep = Sweep([Path("artifact")], questions=str(lines(tmp_path / "exam.jsonl", rows)), controls=())
    (only,), _ = measured(monkeypatch, "generate", sweep, Answers())
    assert (only.task, only.metrics["accuracy"].value, only.n) == ("own-questions", 0.5, 6)


def test_a_data_folder_that_holds_no_data_set_is_no_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"holds no data set that a task is about\nallowed: .*radiology-160\.zip"):
        plan.choose((), tmp_path, ())


def test_a_named_task_without_its_data_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"task labels-xray needs data\ntry: --data DIR, with radiology-160\.zip in it: chest"
    ):
        plan.choose(["labels-xray"], None, ())


def chosen(
    names: Sequence[str], given: Sequence[Task], abilities: Sequence[str], *, source: Path | None = Path("c")
) -> list[str]:
    """The names of what is run on a model of these abilities that is shown images."""
    shown = Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    manifest = MANIFEST.model_copy(update={"preprocessing": shown})
    subject = Subject(Path("artifact"), manifest, source, frozenset(abilities), (), 10)
    return [task.name for task in plan.choose(names, None, [subject], given)]


def test_fidelity_is_measured_on_the_users_images_and_not_beside_them(folder: Path) -> None:
    given = own.tasks(str(folder), None)
    embeds = chosen((), given, ["embed_image"])
    assert embeds[:2] == ["own-images", "own-images-encoder"]
    assert "latency" in embeds
    assert not {"fidelity-encoder", "own-images-answers", "labels-phantom"} & set(embeds)
    answers = chosen((), given, ["generate"])
    assert answers[:3] == ["own-images-asked", "own-images-encoder", "own-images-answers"]
    assert {"fidelity-text", "latency"} <= set(answers)
    assert not {"fidelity-encoder", "fidelity-decoder", "labels-phantom"} & set(answers)
    loaded = {task.name: load(task) for task in given}
    assert {len(one.samples) for one in loaded.values()} == {9}
    assert chosen((), given, ["embed_image"], source=None)[:1] == ["own-images"]
    texts = own.tasks(None, str(lines(folder / "q.jsonl", [{"question": "Q?", "answer": "x"}])))
    assert "fidelity-decoder" in chosen((), texts, ["generate"])


def test_task_names_what_is_run_of_own_data_and_replaces_what_is_run_beside(folder: Path) -> None:
    given = own.tasks(str(folder), None)
    assert chosen(["own-images"], given, ["embed_image"]) == ["own-images"]
    assert chosen(["own-images"], given, ["generate"]) == ["own-images-asked"]
    both = ["embed_image", "generate"]
    assert chosen(["own-images-encoder", "latency"], given, both) == ["own-images-encoder", "latency"]
    assert chosen(["latency"], given, both) == ["own-images", "own-images-asked", "latency"]
    with pytest.raises(UsageError, match="task own-images-encoder compares with full precision, and the checkpoint"):
        chosen(["own-images-encoder"], given, both, source=None)
    with pytest.raises(UsageError, match="unknown task 'own-images'"):
        chosen(["own-images"], (), both)


def test_files_that_are_no_images_are_counted(folder: Path) -> None:
    for name in ("a.heic", "b.HEIC", "scan"):
        (folder / "Glioma" / name).write_bytes(b"x")
    picture(folder / "loose.png", 5)
    picture(folder / "__MACOSX" / "Glioma" / "1.png", 5)
    (folder / ".git" / "config").write_text("x")
    with pytest.warns(PictureWarning, match=r"5 files with other endings not read: \.db, \.heic, \.txt, none"):
        source = images(str(folder))
    left_out = "5 files with other endings not read: .db, .heic, .txt, none; 1 image in no label's folder not read"
    assert source.note == f"3 labels, one a folder; {left_out}"


def test_a_name_that_is_no_text_is_one_in_the_figures(folder: Path) -> None:
    picture(folder / "Glioma" / "x.png", 99).rename(os.fsdecode(bytes(folder / "Glioma") + b"/\xff.png"))
    assert "Glioma/\\udcff.png" in {sample.id for sample in load(own.tasks(str(folder), None)[0]).samples}
