"""Rows become cases: what is asked, what may be answered and what is right, before any image is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import is_file, is_folder
from edgekit.bench.datasets.options import Form, Unusable, answer_of, asked, form_of
from edgekit.bench.datasets.rows import Row
from edgekit.bench.datasets.schema import AnswerForm, Boxes, Columns, DatasetSource, Finding, searched, stays_inside
from edgekit.errors import InputError, UsageError
from edgekit.inputs.labels import label_of

Box = tuple[float, float, float, float]

_CLOSED = ("yes", "no")
_YES, _NO = {"1", "yes", "true", "y", "positive", "present"}, {"0", "no", "false", "n", "negative", "absent"}
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
        form: how answers say which option they mean; found out from all rows for None.
        folder: the one that images lie in, None where rows bring their bytes.
        absolute: whether images may be named by absolute paths, as in a table that the user named herself.
    """

    source: DatasetSource
    columns: Columns
    form: Form | None
    folder: Path | None
    absolute: bool = False

    @classmethod
    def of_file(cls, source: DatasetSource, path: Path | None) -> Reading:
        """How a file of the user's data folder is read.

        Args:
            path: the file beside which its images lie; None where it has none.
        """
        folder = path.parent / source.images if path and source.images else path and path.parent
        form = _form(source.answer_as, source.first_option)
        return cls(source, source.columns, form, folder, source.file is not None and Path(source.file).is_absolute())

    @classmethod
    def of_hub(cls, source: DatasetSource) -> Reading:
        """How its table on the hub is read."""
        there = source.hub
        assert there is not None, "only a source that has one is read there"
        first = source.first_option if there.first_option is None else there.first_option
        return cls(source, there.columns or source.columns, _form(there.answer_as or source.answer_as, first), None)


def _form(kind: AnswerForm | None, first: int) -> Form | None:
    return Form(kind, first) if kind else None


def cases(rows: Sequence[Row], reading: Reading, where: str) -> list[Case]:
    """The cases of a table's rows, of all splits.

    Raises:
        UsageError: the table lacks a column that its data set names.
        InputError: rows that cannot be used; it names them.
    """
    _check_columns(rows, reading, where)
    made, unusable = [], []
    counted = [row for row in rows if row.problem is not None or _counts(row, reading.source)]
    form = reading.form or form_of(_answers(counted, reading), where)
    for row in counted:
        try:
            made.append(_case(row, reading, form))
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
        if only.values and value not in only.values:
            return False
        if only.pattern and searched(only.pattern, value) is None:
            return False
    return True


def _answers(rows: Sequence[Row], reading: Reading) -> list[tuple[str, Mapping[str, str]]]:
    """The answers of the rows that have one and options."""
    found = []
    for row in rows if reading.columns.options and reading.columns.answer else ():
        try:
            found.append((answer_of(row, reading.columns.answer or ""), asked(row, reading.columns)[1]))
        except Unusable:  # which is said where cases are made
            continue
    return found


def _case(row: Row, reading: Reading, form: Form) -> Case:
    if row.problem is not None:
        raise Unusable(row.problem)
    source, columns = reading.source, reading.columns
    question, by_key = asked(row, columns)
    by_key = by_key or {answer: answer for answer in source.answers}
    options = tuple(by_key.values())
    truth = answer_of(row, columns.answer) if columns.answer is not None else ""
    if options and truth:
        right = form.right(truth, by_key)
        if right is None:
            raise Unusable(f"the answer {truth!r:.80} is none of {len(options)} options: {', '.join(options)!r:.160}")
        if options.count(right) > 1:  # whoever answers by the other one would be wrong
            raise Unusable(f"the right option stands among its options twice: {right!r:.80}")
        truth = right
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
    return found_image(reading.folder, name, absolute=reading.absolute)


def found_image(folder: Path, name: str, *, absolute: bool = False) -> Path:
    """The file of an image that a table names: as it stands, with another suffix, or by its name alone.

    Args:
        absolute: whether it may be an absolute path.

    Raises:
        Unusable: the name leads out of the folder.
    """
    relative = Path(name.replace("\\", "/"))
    if absolute and relative.is_absolute():
        return relative
    if not stays_inside(str(relative)):
        raise Unusable(f"its image lies outside of the data: {name!r:.80}")
    for place in (folder / relative, folder / relative.name):
        for candidate in (place, *(place.with_suffix(suffix) for suffix in (".jpg", ".png", ".jpeg"))):
            if is_file(candidate) or (candidate == place and is_folder(candidate)):  # a series
                return candidate
    return folder / relative


def _group(row: Row, reading: Reading) -> str:
    text = row.text(reading.columns.group)
    if text and reading.source.group_pattern:
        found = searched(reading.source.group_pattern, text)
        if found is None:
            raise Unusable(f"no group in {text!r:.80}")
        return found
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
