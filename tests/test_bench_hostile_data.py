"""Data that somebody else wrote: what would score another answer, end the program, or lead out of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import lines, stated

from edgekit.bench import datasets
from edgekit.bench.kinds import Task
from edgekit.bench.tasks import parse
from edgekit.errors import InputError

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
    "no list of texts": ({"label": ["A"], "text": 5}, "A", "no list of options and one of their keys"),
    "no texts": ({"label": ["A"], "text": None}, "A", "no list of options and one of their keys"),
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
