"""Data that somebody else wrote: what would score another answer, end the program, or lead out of the folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from data_files import lines, picture, stated, table
from pydantic import ValidationError

from edgekit.bench import datasets
from edgekit.bench.datasets import corpus, own, rows
from edgekit.bench.datasets.schema import searched
from edgekit.bench.kinds import Task
from edgekit.bench.tasks import parse
from edgekit.bench.tasks import task as load_task
from edgekit.errors import InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small
CHOICE = {"question": "q", "options": ["o"], "answer": "a"}


def choice(path: Path) -> tuple[Task, datasets.Dataset]:
    said = {"name": "t", "kind": "choice", "title": "t", "dataset": stated(path, columns=CHOICE), "limit": 9}
    task = parse({**said, "prompt": "{question} {options}", "parser": "final-letter", "max_tokens": 9})
    return task, datasets.load(task.dataset, 9, 0, None)


def test_options_that_differ_in_case_alone_are_told_apart(tmp_path: Path) -> None:
    rows = [{"q": "?", "o": ["NA", "Na"], "a": "Na"}, {"q": "!", "o": ["NA", "Na"], "a": "NA"}]
    task, loaded = choice(lines(tmp_path / "t.jsonl", rows))
    assert [item.truth for item in task.items(loaded)] == ["B", "A"]


UNUSABLE: dict[str, tuple[Any, str, str]] = {
    "either of two": (["NA", "Na", "x"], "na", "the answer 'na' is none of 3 options"),
    "the right one twice": (["p", "q", "p"], "p", "the right option stands among its options twice: 'p'"),
    "no list of texts": ({"label": ["A"], "text": 5}, "A", "no list of options and one of keys"),
    "no texts": ({"label": ["A"], "text": None}, "A", "no list of options and one of keys"),
    "a key too many": ({"label": ["A", "B", "C"], "text": ["x", "y"]}, "A", "no list of options and one of"),
    "a key twice": ({"label": ["A", "A", "B"], "text": ["x", "y", "z"]}, "A", "no list of options and one of"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_options_without_one_meaning_are_refused(tmp_path: Path, case: str) -> None:
    options, answer, said = UNUSABLE[case]
    rows = [{"q": "!", "o": ["x", "y"], "a": "y"}, {"q": "?", "o": options, "a": answer}]
    with pytest.raises(InputError, match="1 of 2 rows cannot be used") as caught:
        choice(lines(tmp_path / "t.jsonl", rows))
    assert caught.value.items[0].startswith(f"line 2: {said}")


HALF = {"in a text": {"q": "a\ud800b"}, "in a list": {"o": ["x", "\udfff"]}, "in a name": {"q\ud800": "x"}}


@pytest.mark.parametrize("case", HALF)
def test_a_row_with_half_a_character_is_named(tmp_path: Path, case: str) -> None:
    whole = {"q": "!", "o": ["x", "y"], "a": "y"}
    with pytest.raises(InputError, match="1 of 2 rows cannot be used") as caught:
        choice(lines(tmp_path / "t.jsonl", [whole, {**whole, **HALF[case]}]))
    assert caught.value.items[0].startswith("line 2: ")
    assert "half a character" in caught.value.items[0]
    (tmp_path / "t.json").write_text(json.dumps({"k": {**whole, **HALF[case]}}))
    assert "half a character" in str(rows.read(tmp_path / "t.json")[0].problem)
    source = stated(lines(tmp_path / "c.jsonl", [{"text": "x", **HALF[case]}]), reader="corpus")
    with pytest.raises(InputError, match=r"line 1: no JSON: .*half a character"):
        corpus.read(source, 9, 0, tmp_path)


def test_json_of_two_meanings_is_no_row_and_nan_is_an_empty_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "a": 2}\n{"a": NaN}\n{"a": Infinity}\n')
    twice, empty, infinite = rows.read(path)
    assert "two entries of one name" in str(twice.problem)
    assert (empty.problem, empty.get("a")) == (None, None)
    assert "no finite number" in str(infinite.problem)


@pytest.mark.parametrize("prompt", ["{question:d}", "{question!x}", "{question:>999999999}", "{question:{question}}"])
def test_a_placeholder_with_a_format_is_refused(tmp_path: Path, prompt: str) -> None:
    task = {"name": "t", "kind": "choice", "title": "t", "dataset": "medqa", "limit": 9, "max_tokens": 9}
    with pytest.raises(UsageError, match=r"task t: prompt: \{question\} has a format, allowed: \{question\}, "):
        parse({**task, "parser": "final-letter", "prompt": prompt})


def test_many_columns_and_rows_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, began = tmp_path / "t.csv", time.perf_counter()
    path.write_text(",".join(f"c{i}" for i in range(300_000)) + "\n")
    with pytest.raises(InputError, match=r"t\.csv: 300000 columns\nallowed: at most 10000"):
        rows.read(path)
    assert time.perf_counter() - began < 10
    monkeypatch.setattr(rows, "MOST_ROWS", 3)
    path.write_text("a\n" + "1\n" * 4)
    lines(tmp_path / "t.jsonl", [{"a": 1}] * 4)
    (tmp_path / "t.json").write_text(json.dumps([{"a": 1}] * 4))
    for name in ("t.csv", "t.jsonl", "t.json"):
        with pytest.raises(InputError, match=rf"{name}: too many rows\nallowed: at most 3 rows"):
            rows.read(tmp_path / name)
    monkeypatch.setattr(rows, "MOST_CELLS", 3)
    (tmp_path / "t.json").write_text(json.dumps([[]] * 20))
    with pytest.raises(InputError, match=r"t\.json: too many values\nallowed: at most 3"):
        rows.read(tmp_path / "t.json")


ENDLESS = ["(a+)+$", "(a|aa)+$", "a*a*a*a*x", "(a|aa)(a|aa)(a|aa)(a|aa)x", "(?:a*)x", "a+(a+)?x", "((a{1,9}){1,9})x"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str) -> None:
    for key in ({"group_pattern": pattern}, {"only": [{"column": "q", "pattern": pattern}]}):
        with pytest.raises(ValidationError, match="may take for ever; allowed: at most 3"):
            stated(Path("t.csv"), **key)


def test_the_slowest_patterns_that_are_allowed_end() -> None:
    began = time.perf_counter()
    for pattern in (r"a*a*a*x", "(a|aa)(a|aa)a*x", r"[(*+?{]a*\(*a*x"):
        assert stated(Path("t.csv"), group_pattern=pattern).group_pattern == pattern
        assert searched(pattern, "a" * 1_000_000) is None
    assert time.perf_counter() - began < 20
    assert searched(r"patient\d+", "CheXpert/patient64541/study1") == "patient64541"


def test_reasons_name_no_folder_of_the_users(tmp_path: Path) -> None:
    odd = tmp_path / "of\x1b[31m me"
    picture(odd / "a.png", 1)
    rows_ = [{"file": name, "label": "ab"[i % 2]} for i, name in enumerate(["a.png", "b\0.png", "c" * 300, "d.png"])]
    source = stated(lines(odd / "t.jsonl", rows_), columns={"image": "file", "answer": "label"})
    loaded = datasets.load(source, 9, 0, None)
    problems = [str(sample.problem) for sample in loaded.unread]
    assert [len(loaded.samples), len(problems)] == [1, 3]
    assert problems[0] == r"b\x00.png: no such image file: no name of a file"
    assert problems[2].startswith("d.png: no such image file: ")
    assert not any("of" in problem.split(": ")[0] or "\x1b" in problem or "\0" in problem for problem in problems)


def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """A data set that the user got from somebody."""
    (tmp_path / "home" / "benchmarks" / "datasets").mkdir(parents=True, exist_ok=True)
    stated_keys = 'title="t"\ncitation="c"\nlicense="l"\nnote="n"\nreader="table"\n'
    (tmp_path / "home" / "benchmarks" / "datasets" / "theirs.toml").write_text(stated_keys + said)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


COLUMNS = '\n[columns]\nimage = "file"\nanswer = "label"\n'


def test_a_data_set_leads_to_nothing_outside_of_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, data = picture(tmp_path / "secret.png"), tmp_path / "data"
    lines(data / "t.jsonl", [{"file": str(secret), "label": "a"}, {"file": str(secret), "label": "a"}])
    for file in (f'"{data}/t.jsonl"', '"../data/t.jsonl"', '"x/../../data/t.jsonl"'):
        home(tmp_path, monkeypatch, f"file = {file}{COLUMNS}")
        with pytest.raises(UsageError, match=r"dataset theirs: file: .* leads out of the data folder\nallowed: a path"):
            datasets.load("theirs", 9, 0, data)
        inline = 'kind="labels"\ntitle="t"\nlimit=9\nprompts=["x"]\n[dataset]\nname="x"\ntitle="t"\ncitation="c"\n'
        (tmp_path / "task.toml").write_text(f'{inline}license="l"\nnote="n"\nreader="table"\nfile={file}\n')
        with pytest.raises(UsageError, match=r"dataset x: file: .* leads out of the data folder"):
            load_task(str(tmp_path / "task.toml"))
    for images in (str(tmp_path), ".."):
        home(tmp_path, monkeypatch, f'file = "t.jsonl"\nimages = "{images}"{COLUMNS}')
        with pytest.raises(UsageError, match="dataset theirs: images: leads out of the data folder"):
            datasets.load("theirs", 9, 0, data)
    home(tmp_path, monkeypatch, f'file = "t.jsonl"\nmodality = "image"{COLUMNS}[[labels]]\nname = "a"\n')
    with pytest.raises(InputError, match="2 of 2 rows cannot be used") as caught:
        datasets.load("theirs", 9, 0, data)
    assert caught.value.items[0].startswith("line 1: its image lies outside of the data")


def test_a_table_that_the_user_names_may_name_images_anywhere(tmp_path: Path) -> None:
    rows_ = [{"file": str(picture(tmp_path / "far" / f"{i}.png", i)), "label": "ab"[i]} for i in range(2)]
    source = own.images(str(lines(tmp_path / "near" / "t.jsonl", rows_)))
    assert len(datasets.load(source, 9, 0, None).samples) == 2


def test_nothing_is_no_name_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in "ab":
        picture(tmp_path / label / "1.png", ord(label))
    monkeypatch.chdir(tmp_path)
    for given, option in ((own.images, "--images"), (own.questions, "--questions")):
        with pytest.raises(UsageError, match=f"{option}: nothing is named\nallowed: {option} PATH"):
            given("")
    rows_ = [{"file": "1.png", "label": "\x1b[31m"}, {"file": "2.png", "label": "b"}]
    with pytest.raises(InputError, match="without control characters"):
        own.images(str(lines(tmp_path / "t.jsonl", rows_)))


def test_a_misspelled_key_is_named_though_another_is_missing() -> None:
    said = {"name": "t", "kind": "labels", "title": "t", "dataset": "phantoms", "limt": 9, "prompts": ["x"]}
    with pytest.raises(UsageError, match=r"task t: limt: is unknown\nallowed: .*\blimit\b"):
        parse(said)


def test_the_data_set_that_the_documentation_shows_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = text.split("`datasets/exam.toml`:\n\n```toml\n")[1].split("```")[0]
    home(tmp_path, monkeypatch, "")
    (tmp_path / "home" / "benchmarks" / "datasets" / "exam.toml").write_text(shown, encoding="utf-8")
    head = shown.split('file = "exam.csv" # ')[1].split("\n")[0].split(",")
    table(tmp_path / "data" / "exam.csv", [head, ("7", "Which?", "p", "q", "r", "s", "C", "chest")])
    (sample,) = datasets.load("exam", 9, 0, tmp_path / "data").samples
    assert (sample.id, sample.truth, sample.topic, sample.options) == ("7", "r", "chest", ("p", "q", "r", "s"))
    for key in ("title", "citation", "license", "note", "reader"):
        lacking = "\n".join(line for line in shown.split("\n") if not line.startswith(key))
        (tmp_path / "home" / "benchmarks" / "datasets" / "exam.toml").write_text(lacking, encoding="utf-8")
        with pytest.raises(UsageError, match=f"dataset exam: {key}: is missing"):
            datasets.source("exam")
