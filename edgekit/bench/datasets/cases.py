"""Rows become cases: what is asked, what may be answered and what is right, before any image is decoded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.datasets.rows import Row, as_text
from edgekit.bench.datasets.schema import AnswerForm, Boxes, Columns, DatasetSource, Finding
from edgekit.errors import InputError, UsageError
from edgekit.inputs.labels import label_of

Box = tuple[float, float, float, float]

LETTERS = "ABCDEFGHIJ"
_CLOSED = ("yes", "no")
_YES, _NO = {"1", "yes", "true", "y", "positive", "present"}, {"0", "no", "false", "n", "negative", "absent"}
_CHOICES = re.compile(r"(?:Answer Choices:|Options:)\s*(?=\(A\))", re.IGNORECASE)
MOST_SAID = 20  # rows that an error names


@dataclass(frozen=True)
class Case:
    """One sample to be, its image still where it lies.

    Attributes:
        place: where it stands, as people find it.
        image: a file, or the bytes of one; None for a text.
        group: what its source says that it belongs to, empty where it says nothing.
        split: empty where there is none.
    """

    place: str
    id: str
    truth: str = ""
    image: Path | bytes | None = None
    question: str = ""
    options: tuple[str, ...] = ()
    group: str = ""
    topic: str = ""
    context: str = ""
    split: str = ""
    findings: Mapping[str, bool | None] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How rows are read: a source with the columns of the file, or of the hub's table.

    Attributes:
        folder: the one that images lie in, None where rows bring their bytes.
    """

    source: DatasetSource
    columns: Columns
    answer_as: AnswerForm | None
    first_option: int
    folder: Path | None


class Unusable(Exception):  # noqa: N818 (never seen: it ends in the list of an InputError)
    """Why a row cannot be used."""


def cases(rows: Sequence[Row], reading: Reading, where: str) -> list[Case]:
    """The cases of a table's rows, of all splits.

    Raises:
        UsageError: the table lacks a column that its data set names.
        InputError: rows that cannot be used; it names them.
    """
    _check_columns(rows, reading, where)
    made, unusable = [], []
    for row in rows:
        if row.problem is None and not _counts(row, reading.source):
            continue
        try:
            made.append(_case(row, reading))
        except Unusable as problem:
            unusable.append(f"{row.place}: {problem}")
    if unusable:
        raise InputError(
            f"{where}: {len(unusable)} of {len(rows)} rows cannot be used",
            items=some(unusable),
            remedy="correct them or take them out; none is left out silently",
        )
    return _one_an_image(made) if reading.source.boxes else made


def some(lines: Sequence[str]) -> list[str]:
    """The first lines of many, and how many more there are."""
    more = len(lines) - MOST_SAID
    return [*lines[:MOST_SAID], *([f"and {more} more"] if more > 0 else [])]


def _check_columns(rows: Sequence[Row], reading: Reading, where: str) -> None:
    source, columns = reading.source, reading.columns
    named = [columns.id, columns.image, columns.question, *columns.options, columns.answer, columns.group]
    named += [columns.topic, columns.split, columns.context, columns.findings]
    named += [only.column for only in source.only] + [finding.column for finding in source.findings]
    named += list(source.boxes.model_dump().values()) if source.boxes else []
    known = {name: None for row in rows[:100] for name in row.values}
    for name in filter(None, named):
        if rows and name not in known and name.split(".")[0] not in known:
            allowed = ", ".join(map(str, known)) or "none is there"
            raise UsageError(f"the dataset {source.name}: {where} has no column {name!r}", allowed=allowed)


def _counts(row: Row, source: DatasetSource) -> bool:
    for only in source.only:
        value = row.text(only.column)
        if (only.values and value not in only.values) or (only.pattern and not re.search(only.pattern, value)):
            return False
    return True


def _case(row: Row, reading: Reading) -> Case:
    if row.problem is not None:
        raise Unusable(row.problem)
    source, columns = reading.source, reading.columns
    question, options = _question(row, columns)
    options = options or source.answers
    truth = _truth(row, columns, options, reading) if columns.answer is not None else ""
    if question and not options and truth.lower() in _CLOSED:
        truth, options = truth.lower(), _CLOSED
    if not columns.question:
        truth = label_of(truth, "image").name
    if columns.question and not question:
        raise Unusable(f"no question in the column {columns.question!r}")
    return Case(
        place=row.place,
        id=row.text(columns.id) or (_image_name(row, columns) if not columns.question else "") or row.place,
        truth=truth,
        image=_image(row, reading),
        question=question,
        options=options,
        group=_group(row, reading),
        topic=row.text(columns.topic),
        context=_joined(row.get(columns.context)),
        split=row.text(columns.split),
        findings=findings(row, source.findings, columns.findings),
        boxes=_box(row, source.boxes) if source.boxes else {},
    )


def _question(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """The question, and the answers that it allows, which may stand inside it."""
    text = row.text(columns.question)
    if not columns.options:
        return text, ()
    if columns.options == (columns.question,):
        return inside(text)
    if len(columns.options) == 1:
        return text, tuple(_listed(row, columns.options[0]).values())
    options = [row.text(name) for name in columns.options]
    while options and not options[-1]:  # a question with fewer answers than most
        options.pop()
    if len(options) < 2 or not all(options):
        raise Unusable(f"options are missing in the columns {', '.join(columns.options)}")
    return text, tuple(options)


def inside(text: str) -> tuple[str, tuple[str, ...]]:
    """A question without the choices in its text, and those: (A) one (B) two ...; raises Unusable without any."""
    starts = list(_CHOICES.finditer(text))
    begin, end = (starts[-1].start(), starts[-1].end()) if starts else (text.find("(A)"), text.find("(A)"))
    marks, at = [], end
    for letter in LETTERS:
        found = re.compile(rf"(?:^|(?<=\s))\({letter}\)(?=\s|$)").search(text, at) if at >= 0 else None
        if not found:
            break
        marks.append(found.span())
        at = found.end()
    if len(marks) < 2:
        raise Unusable("its question holds no choices")
    ends = [*(start for start, _ in marks[1:]), len(text)]
    options = tuple(text[begins:until].strip() for (_, begins), until in zip(marks, ends, strict=True))
    if not all(options):
        raise Unusable("one of its choices is empty")
    return text[:begin].strip(), options


def _listed(row: Row, column: str) -> dict[str, str]:
    """The options of one cell by their keys: a list, an object, either of them as JSON, or between | or ;"""
    value = row.get(column)
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping):
        if set(value) == {"text", "label"} or set(value) == {"key", "value"}:  # as several sets of the hub have it
            keys, texts = (value["label"], value["text"]) if "text" in value else (value["key"], value["value"])
            value = dict(zip(keys, texts, strict=False))
        found = {str(key): str(text).strip() for key, text in value.items() if text is not None}
    elif isinstance(value, Sequence) and value:
        texts = [entry.get("value", entry.get("text", "")) if isinstance(entry, Mapping) else entry for entry in value]
        found = {str(key): str(text).strip() for key, text in enumerate(texts)}
    else:
        found = {}
    if len(found) < 2 or not all(found.values()):
        raise Unusable(f"no options in the column {column!r}: {row.text(column)!r:.80}")
    return found


def _parsed(text: str) -> Any:
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Unusable(f"options that are no JSON: {text!r:.80}") from None
    return [part.strip() for part in re.split(r"\||;|\n", text) if part.strip()]


def _truth(row: Row, columns: Columns, options: tuple[str, ...], reading: Reading) -> str:
    """The right answer as one of the options, or as it stands where there are none."""
    value = row.get(columns.answer)
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise Unusable(f"{len(value)} answers: {value!r:.80}")
        value = value[0]
    text = as_text(value)
    if not text:
        raise Unusable(f"no answer in the column {columns.answer!r}")
    if not options:
        return text
    form = reading.answer_as or _form(value, text, options, row, columns)
    found = None
    if form == "text":
        found = next((option for option in options if option.casefold() == text.casefold()), None)
    elif form == "letter":
        at = _letter(text)
        found = options[at] if 0 <= at < len(options) else None
    elif form == "index":
        at = int(text) - reading.first_option if text.isdecimal() else -1
        found = options[at] if 0 <= at < len(options) else None
    elif form == "key":
        found = _listed(row, columns.options[0]).get(text)
    if found is None:
        raise Unusable(f"the answer {text!r:.80} is none of {len(options)} options: {', '.join(options)!r:.160}")
    return found


def _form(value: Any, text: str, options: tuple[str, ...], row: Row, columns: Columns) -> AnswerForm:
    """How an answer says which option it means, where its data set does not tell."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "index"
    if any(option.casefold() == text.casefold() for option in options):
        return "text"
    if _letter(text) >= 0:
        return "letter"
    if len(columns.options) == 1 and columns.options != (columns.question,):
        return "key" if text in _listed(row, columns.options[0]) else "index"
    return "index" if text.isdecimal() else "text"


def _letter(text: str) -> int:
    """The position that a letter stands for, in parentheses or not; -1 for what is none."""
    bare = text.strip("().: ").upper()
    return LETTERS.find(bare) if len(bare) == 1 else -1


def _image_name(row: Row, columns: Columns) -> str:
    value = row.get(columns.image)
    return str(value.get("path") or "") if isinstance(value, Mapping) else row.text(columns.image)


def _image(row: Row, reading: Reading) -> Path | bytes | None:
    """A row's image; one without a picture is a text where its data set has texts beside pictures."""
    value = row.get(reading.columns.image)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])
    if isinstance(value, bytes):
        return value
    name = _image_name(row, reading.columns)
    if not name:
        if reading.columns.image and not reading.columns.question:
            raise Unusable(f"no image in the column {reading.columns.image!r}")
        return None
    if reading.folder is None:
        raise Unusable(f"its image is not in the table: {name!r:.80}")
    return found_image(reading.folder, name)


def found_image(folder: Path, name: str) -> Path:
    """The file of an image that a table names: as it stands, with another suffix, or by its name alone.

    Raises:
        Unusable: the name leads out of the folder.
    """
    relative = Path(name.replace("\\", "/"))
    if relative.is_absolute():
        return relative
    if ".." in relative.parts:
        raise Unusable(f"its image lies outside of the data: {name!r:.80}")
    for place in (folder / relative, folder / relative.name):
        for candidate in (place, *(place.with_suffix(suffix) for suffix in (".jpg", ".png", ".jpeg"))):
            if candidate.is_file():
                return candidate
    return folder / relative


def _group(row: Row, reading: Reading) -> str:
    text = row.text(reading.columns.group)
    if text and reading.source.group_pattern:
        found = re.search(reading.source.group_pattern, text)
        if not found:
            raise Unusable(f"no group in {text!r:.80}")
        return found.group()
    return text


def findings(row: Row, wanted: Sequence[Finding], column: str | None) -> dict[str, bool | None]:
    """What a row says of each finding, True, False, or None where it is not certain."""
    named = {part.strip().casefold() for part in row.text(column).split("|")}
    return {
        one.name: one.name.casefold() in named if one.column is None else _certain(row.text(one.column))
        for one in wanted
    }


def _certain(text: str) -> bool | None:
    lower = text.lower().removesuffix(".0")
    return True if lower in _YES else False if lower in _NO else None


def _joined(value: Any) -> str:
    """A context of one text or of several."""
    if isinstance(value, list | tuple):
        return "\n\n".join(str(part).strip() for part in value)
    return "" if value is None else str(value).strip()


def _box(row: Row, columns: Boxes) -> dict[str, Box]:
    name, sides = row.text(columns.name), []
    for column in (columns.top, columns.left, columns.bottom, columns.right):
        try:
            sides.append(float(row.text(column)))
        except ValueError:
            raise Unusable(f"no number in the column {column!r}: {row.text(column)!r:.80}") from None
    top, left, bottom, right = sides
    if not (name and all(map(math.isfinite, sides)) and top < bottom and left < right):
        raise Unusable(f"no box of {name!r:.80}: top {top}, left {left}, bottom {bottom}, right {right}")
    return {name: (top, left, bottom, right)}


def _one_an_image(made: Sequence[Case]) -> list[Case]:
    """The boxes of one image together; its rows need not follow each other."""
    merged: dict[str, Case] = {}
    for case in made:
        before = merged.get(case.id)
        boxes = {**(before.boxes if before else {}), **case.boxes}
        merged[case.id] = Case(**{**vars(before or case), "boxes": boxes})
    return list(merged.values())
