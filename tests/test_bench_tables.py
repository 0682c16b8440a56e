"""Tables as spreadsheets and others write them, and what a row of one asks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from data_files import lines, picture, stated, table
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench import datasets
from edgekit.bench.datasets.rows import read
from edgekit.errors import InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small
ROWS = [("file", "label"), ("a b.jpg", "Größe; 3,5 cm"), ("c.jpg", 'say "ah"\nnow')]


def values(path: Path) -> list[tuple[str, ...]]:
    return [tuple(map(str, row.values.values())) for row in read(path)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("first", ["", "sep"])
def test_tables_of_spreadsheets_are_read_as_they_are(tmp_path: Path, delimiter: str, encoding: str, first: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(ROWS)
    begin = f"sep={delimiter}\r\n" if first else ""
    path = tmp_path / "t.csv"
    path.write_bytes((begin + text.getvalue()).encode(encoding))
    assert values(path) == ROWS[1:]
    assert list(read(path)[0].values) == ["file", "label"]
    places = [row.place for row in read(path)]
    assert places == (["line 3", "line 4"] if first else ["line 2", "line 3"])


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20)


@given(
    rows=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t")
)
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    table(path, [("x", "y", "z"), *rows], delimiter)
    full = [tuple(row) for row in rows if any(cell.strip() for cell in row)]
    if full:
        assert values(path) == full
    else:
        with pytest.raises(InputError, match="no row"):
            read(path)


def test_json_lines_and_packed_files(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": {"c": ["x", "y"]}}, {"a": 2.0, "b": None}]
    plain = lines(tmp_path / "t.jsonl", rows)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "by key.json").write_text(json.dumps({"k1": rows[0], "k2": rows[1]}))
    for name in ("t.jsonl", "t.jsonl.gz", "t.json", "by key.json"):
        first, second = read(tmp_path / name)
        assert (first.text("a"), first.get("b.c"), second.text("a"), second.get("b.c")) == ("1", ["x", "y"], "2", None)
    assert [row.text("key") for row in read(tmp_path / "by key.json")] == ["k1", "k2"]


BAD: dict[str, tuple[str, bytes, str]] = {
    "latin": ("t.csv", "file,label\na.jpg,Größe\n".encode("latin-1"), r"line 2: not UTF-8: the byte 0xf6\n.*CSV UTF-8"),
    "no header": ("t.csv", b"\n\n", "names no columns"),
    "nothing": ("t.csv", b"", "names no columns"),
    "only a header": ("t.csv", b"a,b\n", "no row in it"),
    "a name twice": ("t.csv", b"a,b,a\n1,2,3\n", "the column 'a' stands in it twice"),
    "quote": ("t.csv", b'a,b\n"x,2\n', "line 2: "),
    "no json": ("t.json", b"{", "not valid JSON"),
    "a number": ("t.json", b"3", "no table\nallowed: a list of objects"),
    "deep": ("t.json", b"[" * 100_000, "not valid JSON"),
    "no gzip": ("t.csv.gz", b"a,b\n1,2\n", "cannot be read"),
    "cut gzip": ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99)[:-9], "cannot be read"),
    "suffix": ("t.xlsx", b"PK", r"no table that is known\nallowed: a file that ends in \.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_table_says_why(tmp_path: Path, case: str) -> None:
    name, content, said = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_all_rows_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    whole = {"question": "Q?", "options": ["x", "y"], "answer": "x"}
    rows = [
        whole,
        {**whole, "answer": "z"},
        {**whole, "answer": ""},
        {**whole, "options": ["x"]},
        {**whole, "question": " "},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{oops\n[1]\n")
    source = stated(path, columns={"question": "question", "options": ["options"], "answer": "answer"})
    with pytest.raises(InputError) as caught:
        datasets.load(source, 99, 0, None)
    assert "t.jsonl: 6 of 7 rows cannot be used" in caught.value.message
    for part in ("line 2: the answer 'z' is none of 2 options", "line 3: no answer in the column 'answer'",
                 "line 4: no options in the column 'options'", "line 5: no question in the column 'question'",
                 "line 6: not valid JSON", "line 7: no JSON object"):  # fmt: skip
        assert any(item.startswith(part) for item in caught.value.items), part


def test_rows_of_a_wrong_length_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("question,answer\nA?,x\nB?\nC?,y,z\nD?,w,,\n")
    with pytest.raises(InputError) as caught:
        datasets.load(stated(path, columns={"question": "question", "answer": "answer"}), 99, 0, None)
    assert caught.value.items == ("line 3: 1 cells, 2 columns", "line 4: 3 cells, 2 columns")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [("question", "answr"), ("A?", "x")])
    with pytest.raises(UsageError, match=r"t\.csv has no column 'answer'\nallowed: question, answr"):
        datasets.load(stated(path, columns={"question": "question", "answer": "answer"}), 99, 0, None)


FOUR = ("w", "xx", "yyy", "zz zz")
INSIDE = "What? (no trick)\nAnswer Choices: (A) w (B) xx (C) yyy (D) zz zz"
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "list, text": ({"o": list(FOUR), "a": "YYY"}, {"options": ["o"]}),
    "list, index": ({"o": list(FOUR), "a": 2}, {"options": ["o"], "answer_as": "index"}),
    "list, index from 1": ({"o": list(FOUR), "a": 3}, {"options": ["o"], "answer_as": "index", "first_option": 1}),
    "list, letter": ({"o": list(FOUR), "a": "C"}, {"options": ["o"]}),
    "list, (letter)": ({"o": list(FOUR), "a": "(c)"}, {"options": ["o"]}),
    "list of one letter": ({"o": list(FOUR), "a": ["C"]}, {"options": ["o"]}),
    "letters, letter": ({"o": dict(zip("ABCD", FOUR, strict=True)), "a": "C"}, {"options": ["o"]}),
    "keys, key": ({"o": {f"option{i}": text for i, text in enumerate(FOUR, 1)}, "a": "option3"}, {"options": ["o"]}),
    "JSON, key": ({"o": json.dumps({"p": "w", "q": "xx", "r": "yyy", "s": "zz zz"}), "a": "r"}, {"options": ["o"]}),
    "pairs": ({"o": [{"key": k, "value": t} for k, t in zip("ABCD", FOUR, strict=True)], "a": "C"}, {"options": ["o"]}),
    "columns": ({"p": "w", "q": "xx", "r": "yyy", "s": "zz zz", "a": "C"}, {"options": ["p", "q", "r", "s"]}),
    "bars": ({"o": "w | xx | yyy | zz zz", "a": "yyy"}, {"options": ["o"]}),
    "inside": ({"q": INSIDE, "a": ["C"]}, {"options": ["q"]}),
}


@pytest.mark.parametrize("case", ASKED)
def test_options_and_answers_in_every_form_are_the_same(tmp_path: Path, case: str) -> None:
    row, how = ASKED[case]
    path = lines(tmp_path / "t.jsonl", [{"q": "What? (no trick)", **row}])
    columns = {"question": "q", "options": how["options"], "answer": "a"}
    if "q" in how["options"] and case != "inside":
        columns["question"] = "question"
        path = lines(tmp_path / "t.jsonl", [{"question": "What? (no trick)", **row}])
    source = stated(path, columns=columns, **{key: value for key, value in how.items() if key != "options"})
    (sample,) = datasets.load(source, 9, 0, None).samples
    assert (sample.question, sample.options, sample.truth) == ("What? (no trick)", FOUR, "yyy")


def test_numbers_that_are_options_are_not_mistaken_for_positions(tmp_path: Path) -> None:
    """A cell "2" is the option 2 where there is one; the data set's file may say otherwise."""
    path = table(tmp_path / "t.csv", [("q", "a", "b", "c", "answer"), ("1 + 1?", "1", "2", "3", "2")])
    columns = {"question": "q", "options": ["a", "b", "c"], "answer": "answer"}
    assert datasets.load(stated(path, columns=columns), 9, 0, None).samples[0].truth == "2"
    counted = stated(path, columns=columns, answer_as="index")
    assert datasets.load(counted, 9, 0, None).samples[0].truth == "3"


def truths(path: Path, rows: list[tuple[list[str], Any]]) -> list[str]:
    lines(path, [{"q": f"{i}?", "o": options, "a": answer} for i, (options, answer) in enumerate(rows)])
    source = stated(path, columns={"question": "q", "options": ["o"], "answer": "a"})
    return [sample.truth for sample in datasets.load(source, 99, 0, None).samples]


def test_one_form_holds_for_all_answers(tmp_path: Path) -> None:
    """A position among numbers is a position where the other rows' answers are."""
    path, words, numbers = tmp_path / "t.jsonl", ["p", "q", "r"], ["2", "1", "0"]
    assert truths(path, [(words, 0), (numbers, 2)]) == ["p", "0"]
    assert truths(path, [(words, 3), (numbers, 2)]) == ["r", "1"]
    assert truths(path, [(words, "p"), (numbers, 2)]) == ["p", "2"]
    assert truths(path, [(["A", "B"], "B"), (["B", "A"], "B")]) == ["B", "B"]
    assert truths(path, [(["A", "B", "x"], "B"), (["B", "A", "x"], "C")]) == ["B", "x"]


def test_positions_that_may_count_from_0_or_from_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"t\.jsonl: its answers are positions that may count from 0 or from 1\nallowed: let"
    ):
        truths(tmp_path / "t.jsonl", [(["p", "q", "r"], 1), (["p", "q", "r"], 2)])


def test_findings_are_there_or_not_or_not_certain(tmp_path: Path) -> None:
    rows = [
        ("file", "A", "B", "C", "all"),
        ("x.png", "1.0", "-1.0", "NO", "edema | Mass"),
        ("y.png", "0", "", "yes", ""),
    ]
    for number, name in enumerate(("x.png", "y.png")):
        picture(tmp_path / name, number)
    named = [{"name": "a", "column": "A"}, {"name": "b", "column": "B"}, {"name": "c", "column": "C"}, {"name": "mass"}]
    source = stated(
        table(tmp_path / "t.csv", rows),
        columns={"image": "file", "findings": "all"},
        findings=named,
        modality="chest x-ray",
    )
    loaded = datasets.load(source, 9, 0, None)
    found = {sample.id: dict(sample.findings) for sample in loaded.samples}
    assert found["x.png"] == {"a": True, "b": None, "c": False, "mass": True}
    assert found["y.png"] == {"a": False, "b": None, "c": True, "mass": False}
    with pytest.raises(UsageError, match="has no labels"):
        _ = loaded.labels


def test_a_box_that_is_none_is_named(tmp_path: Path) -> None:
    head = ("image", "name", "t", "l", "b", "r")
    path = table(tmp_path / "t.csv", [head, ("x.png", "heart", 1, 2, 30, 40), ("x.png", "lung", 9, 2, 3, 40),
                                      ("x.png", "rib", "nan", 2, 3, 40), ("x.png", "hip", "", 2, 3, 40)])  # fmt: skip
    boxes = {"name": "name", "top": "t", "left": "l", "bottom": "b", "right": "r"}
    with pytest.raises(InputError, match="3 of 4 rows cannot be used"):
        datasets.load(stated(path, columns={"image": "image"}, boxes=boxes), 9, 0, None)


def test_an_image_outside_of_the_data_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    path = table(tmp_path / "in" / "t.csv", [("file", "label"), ("../secret.png", "a"), ("../secret.png", "b")])
    with pytest.raises(InputError) as caught:
        datasets.load(stated(path, columns={"image": "file", "answer": "label"}), 9, 0, None)
    assert "its image lies outside of the data" in caught.value.items[0]
