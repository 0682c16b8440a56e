"""Data that somebody else wrote: what would score another answer, end the program, or lead out of the folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from data_files import lines, stated
from pydantic import ValidationError

from edgekit.bench import datasets
from edgekit.bench.datasets import corpus, rows
from edgekit.bench.datasets.schema import searched
from edgekit.bench.kinds import Task
from edgekit.bench.tasks import parse
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
