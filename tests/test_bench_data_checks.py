"""What would make a figure wrong without anybody's notice is refused, with the rows that do."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from data_files import lines, picture, stated, table

from edgekit.bench import datasets
from edgekit.errors import InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small
IMAGES = {"image": "file", "answer": "label", "split": "split", "group": "patient"}


def labelled(folder: Path, rows: list[tuple[str, str, str, str]], **keys: Any) -> datasets.DatasetSource:
    """A table of files, labels, splits and patients; the picture of a file is the one of the number in its name."""
    for name, *_ in rows:
        picture(folder / name, int("".join(filter(str.isdigit, name)) or 0))
    path = table(folder / "t.csv", [("file", "label", "split", "patient"), *rows])
    return stated(path, columns=IMAGES, **keys)


def refused(source: datasets.DatasetSource) -> InputError:
    with pytest.raises(InputError) as caught:
        datasets.load(source, 99, 0, None)
    return caught.value


def test_ids_that_stand_twice(tmp_path: Path) -> None:
    rows = [{"id": name, "q": "?", "a": "x"} for name in "abcbab"]
    error = refused(stated(lines(tmp_path / "t.jsonl", rows), columns={"id": "id", "question": "q", "answer": "a"}))
    assert error.message == "t.jsonl: 2 ids stand for several rows"
    assert error.items == ("'a': line 1, line 5", "'b': line 2, line 4, line 6")


def test_one_image_under_two_labels(tmp_path: Path) -> None:
    """By its content: it has another name there."""
    error = refused(labelled(tmp_path, [("1.png", "a", "", ""), ("2.png", "b", "", ""), ("x1.png", "b", "", "")]))
    assert error.message == "t.csv: 1 images have several labels"
    assert error.items == ("line 2 (a), line 4 (b)",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("1.png", "a", "test", ""), ("2.png", "b", "test", ""), ("x1.png", "a", "train", "")],
         "line 2 (test) and line 4 (train): the same image"),
        ([("1.png", "a", "test", "p"), ("2.png", "b", "test", "q"), ("3.png", "a", "val", "q")],
         "line 3 (test) and line 4 (val): of the same group"),
    ],
    ids=["image", "patient"],
)  # fmt: skip
def test_a_split_that_leaks(tmp_path: Path, rows: list[tuple[str, str, str, str]], said: str) -> None:
    error = refused(labelled(tmp_path, rows))
    assert "1 cases of one split are in another, so its figures would flatter" in error.message
    assert error.items == (said,)
    whole = datasets.load(labelled(tmp_path, rows, leaks="left out"), 99, 0, None)
    assert len(whole.samples) == 1


def test_what_leaks_between_splits_that_are_not_read_says_nothing_of_figures(tmp_path: Path) -> None:
    rows = [
        ("1.png", "a", "train", ""),
        ("x1.png", "a", "val", ""),
        ("2.png", "a", "test", ""),
        ("3.png", "b", "test", ""),
    ]
    assert len(datasets.load(labelled(tmp_path, rows), 99, 0, None).samples) == 2


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    error = refused(labelled(tmp_path, [("1.png", "a", "train", ""), ("2.png", "b", "val", "")]))
    assert str(error) == "t.csv: nothing is in the split 'test'\nallowed: train, val"


def test_the_same_image_twice_is_one_group(tmp_path: Path) -> None:
    """Two questions about one image are not independent, whatever its copies are called."""
    picture(tmp_path / "1.png", 1), picture(tmp_path / "copy.png", 1), picture(tmp_path / "2.png", 2)
    rows = [{"f": name, "q": f"{i}?", "a": "x"} for i, name in enumerate(("1.png", "copy.png", "1.png", "2.png"))]
    columns = {"image": "f", "question": "q", "answer": "a"}
    samples = datasets.load(stated(lines(tmp_path / "t.jsonl", rows), columns=columns), 99, 0, None).samples
    assert [len({s.group for s in samples}), len({s.id for s in samples})] == [2, 4]
    assert samples[0].group == samples[1].group == samples[2].group != samples[3].group


def test_a_column_says_what_belongs_together(tmp_path: Path) -> None:
    rows = [("1.png", "a", "", "p"), ("2.png", "b", "", "p"), ("3.png", "a", "", "q"), ("4.png", "a", "", "")]
    samples = datasets.load(labelled(tmp_path, rows), 99, 0, None).samples
    assert [sample.group for sample in samples[:3]] == ["p", "p", "q"]
    assert samples[3].group not in ("", "p", "q")


def test_the_same_seed_gives_the_same_samples(tmp_path: Path) -> None:
    source = labelled(tmp_path, [(f"{i}.png", "ab"[i % 2], "", "") for i in range(30)])
    drawn = [[sample.id for sample in datasets.load(source, 8, seed, None).samples] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    few, many = (datasets.load(source, n, 1, None) for n in (4, 8))
    assert [s.id for s in few.samples] == [s.id for s in many.samples][:4]


def test_images_that_memory_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.bench.datasets import samples
    from edgekit.machine.memory import Memory

    source = labelled(tmp_path, [(f"{i}.png", "ab"[i % 2], "", "") for i in range(9)])
    monkeypatch.setattr(samples, "memory", lambda: Memory(10_000, 10_000))  # of which a picture takes 2,000
    error = refused(source)
    assert "3 images take 0.0 GB of memory" in error.message
    assert error.remedy == "--limit N takes fewer"
    assert len(datasets.load(source, 2, 0, None).samples) == 2


def archive(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """An archive of slices: file, patient, split."""
    index = "".join(f"{name},brain mri,glioma,{patient},{split}\n" for name, patient, split in rows)
    with zipfile.ZipFile(folder / "radiology-160.zip", "w") as out:
        out.writestr("index.csv", "file,modality,label,patient,split\n" + index)
        for name, *_ in rows:
            out.writestr(name, picture(folder / "p.png", int(name[1])).read_bytes())


def test_an_archive_that_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of the published brain MRI are in two splits; its file says that they are left out."""
    rows = [
        ("a1.jpg", "", "test"),
        ("a2.jpg", "", "test"),
        ("a3.jpg", "p", "test"),
        ("b1.jpg", "", "train"),
        ("b4.jpg", "p", "val"),
    ]
    archive(tmp_path, rows)
    assert [sample.id for sample in datasets.load("brain-mri", 99, 0, tmp_path).samples] == ["a2.jpg"]
    strict = datasets.source("brain-mri").model_copy(update={"leaks": "refused"})
    with pytest.raises(InputError, match="2 images of the split test are in another") as caught:
        datasets.load(strict, 99, 0, tmp_path)
    assert caught.value.items == ("a1.jpg", "a3.jpg")


def test_a_wrong_pattern_is_the_data_sets_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks" / "datasets"
    folder.mkdir(parents=True)
    text = 'title = "t"\ncitation = "c"\nlicense = "l"\nnote = "n"\nreader = "table"\nfile = "t.csv"\n'
    (folder / "mine.toml").write_text(text + "group_pattern = '(' \n[columns]\nquestion = 'q'\nanswer = 'a'\n")
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="dataset mine: group_pattern: no regular expression"):
        datasets.source("mine")
