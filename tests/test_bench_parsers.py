"""Parsers on answers as models and radiologists write them, and on what nobody should write."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.parsers import PARSERS, final_text, labelled_boxes

SENTENCES = Path(__file__).parent / "data" / "answers"
FINDINGS = (
    "pneumothorax", "pleural effusion", "effusion", "consolidation", "nodule", "atelectasis", "cardiomegaly",
    "rib fracture", "pneumonia", "edema", "no finding", "normal",
)  # fmt: skip
KINDS = ("normal", "bacterial pneumonia", "viral pneumonia", "no tumor", "meningioma", "glioma", "pneumothorax")
ASKED = "yes_or_no_asked.tsv"
LETTERS = "ABCDEFGHIJ"


def _rows(name: str) -> list[list[str]]:
    """A file's rows: what is expected, - for nothing, and the answer, in which \\n is a line break."""
    lines = (SENTENCES / name).read_text(encoding="utf-8").splitlines()
    return [[field.replace("\\n", "\n") for field in line.split("\t")] for line in lines]


def _wrong(parser: str, allowed: tuple[str, ...] | str, rows: list[tuple[str, str]]) -> list[str]:
    parse = PARSERS[parser].parse
    found = [(expected, parse(answer, allowed) or "-", answer) for expected, answer in rows]
    return [f"{answer!r}: {said}, not {expected}" for expected, said, answer in found if said != expected]


def test_names_of_findings() -> None:
    rows = [(expected, answer) for expected, answer in _rows("labels.tsv")]
    assert len(rows) >= 100
    assert _wrong("first-label", FINDINGS, rows) == []


def test_yes_and_no() -> None:
    rows = [(expected, answer) for expected, answer in _rows("yes_or_no.tsv")]
    assert len(rows) >= 100
    assert _wrong("first-yes-or-no", ("yes", "no"), rows) == []


def test_yes_and_no_of_what_was_asked() -> None:
    """An answer says several things; the question knows which of them is meant."""
    parse = PARSERS["first-yes-or-no"].parse
    rows = [(expected, parse(answer, (), asked) or "-", asked, answer) for expected, asked, answer in _rows(ASKED)]
    assert [row for row in rows if row[0] != row[1]] == []


def test_names_of_kinds_of_one_thing() -> None:
    rows = [(expected, answer) for expected, answer in _rows("labels_of_kinds.tsv")]
    assert _wrong("first-label", KINDS, rows) == []


@pytest.mark.parametrize(("parser", "column"), [("final-letter", 0), ("medqa-notebook", 1)])
def test_letters(parser: str, column: int) -> None:
    rows = [(row[column], row[2]) for row in _rows("letters.tsv")]
    assert len(rows) >= 100
    assert _wrong(parser, LETTERS, rows) == []


@pytest.mark.parametrize("parser", ["final-letter", "medqa-notebook"])
def test_a_letter_that_no_option_has_is_none(parser: str) -> None:
    assert PARSERS[parser].parse("Final Answer: (D)", "ABC") is None
    assert PARSERS[parser].parse("Final Answer: (D)", "ABCD") == "D"


@pytest.mark.parametrize("parser", PARSERS)
@given(answer=st.text(max_size=200), names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5))
def test_whatever_is_answered_gives_one_of_those_allowed_or_none(parser: str, answer: str, names: list[str]) -> None:
    allowed = ("yes", "no") if parser == "first-yes-or-no" else tuple(names)
    assert PARSERS[parser].parse(answer, allowed) in (None, *allowed)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("piece", ["Final Answer: ", "no ", "(A", "yes or no ", "not nodule ", "I cannot ", "\n", "("])
def test_an_answer_that_only_repeats_itself_is_read_in_no_time(parser: str, piece: str) -> None:
    """As models do that have lost their way, up to a budget of 10,000 tokens."""
    began = time.process_time()
    PARSERS[parser].parse(piece * (40_000 // len(piece)), FINDINGS)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("axial", "axial"),
        ("  **Axial**\n", "Axial"),
        ("The mass is on the left. Final Answer: left", "left"),
        ("Final Answer: left. Final Answer: right", "right"),
        ("Final Answer:", ""),
        ("", ""),
    ],
)
def test_what_an_answer_in_words_says(answer: str, expected: str) -> None:
    assert final_text(answer) == expected


BOX = '[{"box_2d": [140, 110, 340, 470], "label": "right clavicle"}]'


@pytest.mark.parametrize(
    "answer",
    [
        f"Final Answer: ```json{BOX}```",
        f"Final Answer: ```json\n{BOX}\n```",
        f"The clavicle is the bone above the lung. Final Answer: ```json {BOX} ``` as shown",
        f"```json{BOX}```",
        f"```\n{BOX}\n```",
        f"Final Answer: {BOX}",
        BOX,
        BOX[1:-1],
        f'First ```json[{{"box_2d": [0, 0, 5, 5], "label": "x"}}]``` and then ```json{BOX}```',
        f"A list like [1, 2] is none of it. Final Answer: {BOX} [y0, x0, y1, x1]",
    ],
)
def test_a_box(answer: str) -> None:
    boxes = labelled_boxes(answer)
    assert boxes is not None
    assert [(one.label, one.box) for one in boxes] == [("right clavicle", (140, 110, 340, 470))]


@pytest.mark.parametrize(
    "answer",
    [
        "", "I cannot see it.", "[", "Final Answer: []", "[1, 2, 3, 4]", '[{"label": "a"}]', "[" * 100_000,
        '[{"box_2d": [1, 2, 3], "label": "a"}]', '[{"box_2d": [3, 2, 1, 4], "label": "a"}]',
        '[{"box_2d": [1, 4, 3, 2], "label": "a"}]', '[{"box_2d": [1, 2, NaN, 4], "label": "a"}]',
        '[{"box_2d": [1, 2, Infinity, 4], "label": "a"}]', '[{"box_2d": ["1", 2, 3, 4], "label": "a"}]',
        '[{"box_2d": [true, 2, 3, 4], "label": "a"}]', '[{"box_2d": [1, 2, 3, 4], "label": 7}]',
        f'[{{"box_2d": [1, 2, 3, {"9" * 400}], "label": "a"}}]', '```json{"box_2d": "all of it"}```', "```json```",
        json.dumps([{"box_2d": [1, 2, 3, 4], "label": "a"}, "and more"]),
    ],
    ids=range(19),
)  # fmt: skip
def test_what_is_no_list_of_boxes_is_none(answer: str) -> None:
    assert labelled_boxes(answer) is None
