"""What a data set's file may say: where it comes from, how it is stored, and which column is what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from edgekit.artifacts.validation import Listed, Name, StrictModel, Text
from edgekit.errors import UsageError
from edgekit.inputs.labels import Label, label_of

SEARCHED = 200
AnswerForm = Literal["text", "letter", "index", "key"]


_MOST_CHOICES = 3  # of a pattern: each multiplies how long the longest search takes
_LITERAL = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # an escape, or a class of characters


def _pattern(text: str) -> str:
    """A regular expression that no text keeps busy: Python's search tries every way in which its parts can fit."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PydanticCustomError("pattern", "{said}", {"said": f"no regular expression: {error}"}) from error
    bare = _LITERAL.sub("x", text)
    choices = len(re.findall(r"[(*+?{]", bare))
    if choices > _MOST_CHOICES or re.search(r"\)[*+?{]|\(\?", bare):
        most = f"at most {_MOST_CHOICES} of ( * + ? {{ together, none of them behind a ), and no (?"
        raise PydanticCustomError("pattern", "{said}", {"said": f"may take for ever; allowed: {most}"})
    return text


def searched(pattern: str, text: str) -> str | None:
    """What a `Pattern` finds in the first `SEARCHED` characters of a text, None for nothing."""
    found = re.search(pattern, text[:SEARCHED])
    return found.group() if found else None


def stays_inside(name: str) -> bool:
    """Whether a path that others wrote leads nowhere but into the folder that it is looked for in.

    A link there is the user's own: large data sets lie on other disks.
    """
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _inside(name: str) -> str:
    if not stays_inside(name):
        raise PydanticCustomError("place", "leads out of the data folder")
    return name


Pattern = Annotated[Name, AfterValidator(_pattern)]


class Columns(StrictModel):
    """Which column is what; one of nested values is named with dots, `data.Question`.

    Attributes:
        options: a column each; or one that holds them all, as a list or by key. The question's own column where they
            stand in its text as (A) ... (B) ...
        group: samples with the same value in it are not independent.
        split: says which rows are test rows.
        findings: names all that an image shows, with | between them.
    """

    id: Name | None = None
    image: Name | None = None
    question: Name | None = None
    options: Listed[Name] = ()
    answer: Name | None = None
    group: Name | None = None
    topic: Name | None = None
    split: Name | None = None
    context: Name | None = None
    findings: Name | None = None


class Only(StrictModel):
    """Rows that count: those with one of these values in a column, or with a text that a pattern is found in."""

    column: Name
    values: Listed[Name] = ()
    pattern: Pattern | None = None


class Finding(StrictModel):
    """One of several things that an image may show at the same time.

    Attributes:
        column: says whether it does (1, yes, true; 0, no, false; anything else is not certain). None where the column
            of all findings names it.
    """

    name: Name
    column: Name | None = None


class Boxes(StrictModel):
    """Columns of a table with one box a row; rows with the same image are one sample. Pixels of that image."""

    name: Name
    top: Name
    left: Name
    bottom: Name
    right: Name


class LabelRow(StrictModel):
    """One label of the user's; what is left out follows from its name."""

    name: Name
    phrase: Name | None = None
    question: Name | None = None


class HubSource(StrictModel):
    """The same data set on Hugging Face's hub.

    Attributes:
        id: owner/name.
        config: one of its configurations, where it has several.
        split: the hub's name of the split that is read.
        files: what is downloaded of it; all of its data without any.
        columns: where they differ from those of the file.
    """

    id: Name
    config: Name | None = None
    split: Name = "test"
    revision: Name | None = None
    files: Listed[Name] = ()
    columns: Columns | None = None
    answer_as: AnswerForm | None = None
    first_option: int | None = Field(default=None, ge=0, le=1)


class DatasetSource(StrictModel):
    """Where a data set comes from, data in `benchmarks/datasets/<name>.toml`; shown wherever a figure of it is.

    Attributes:
        modality: the kind of image; it decides the labels where none are listed. None for texts.
        note: what a reader must know before trusting a figure.
        reader: how its samples are read: the name of a `Reader`.
        file: what must lie in the user's data folder or in a folder of it, None for a data set that needs none.
        sha256: of that file as it was published; another one is not this data set. None where nobody states it.
        url: where it can be had.
        order: its tasks stand before those of data sets with a larger one.
        images: the folder that its images lie in, as its file's folder has it.
        split: the split that is read, where a column or the folders say which one a sample is in.
        leaks: what becomes of samples whose image is in another split, too.
        columns: which column of its table is what.
        header: the columns' names, where the file has no line with them.
        only: the rows that count, all without any.
        answers: what may be answered to every question of it.
        answer_as: how the answer's column says it; found out where it is left out.
        first_option: what the first option is counted as.
        group_pattern: the part of the group's column that is the group.
        labels: the user's own, in place of those of the modality.
        findings: what its images may show at the same time.
        boxes: columns of a table of boxes.
    """

    name: Name
    title: Name
    modality: Name | None = None
    citation: Text = Field(min_length=1)
    license: Text = Field(min_length=1)
    note: Text = Field(min_length=1)
    reader: Name
    file: Text | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    url: Name | None = None
    order: int = Field(default=100, ge=-1_000_000, le=1_000_000)
    images: Annotated[Name, AfterValidator(_inside)] | None = None
    split: Name = "test"
    leaks: Literal["refused", "left out"] = "refused"
    columns: Columns = Columns()
    header: Listed[Name] = ()
    only: Listed[Only] = ()
    answers: Listed[Name] = ()
    answer_as: AnswerForm | None = None
    first_option: int = Field(default=0, ge=0, le=1)
    group_pattern: Pattern | None = None
    labels: Listed[LabelRow] = Field(default=(), max_length=1000)
    findings: Listed[Finding] = Field(default=(), max_length=1000)
    boxes: Boxes | None = None
    hub: HubSource | None = None

    def check_place(self) -> None:
        """Raise UsageError where its file is outside of any data folder: only what the user names herself may be."""
        if self.file is not None and not stays_inside(self.file):
            raise UsageError(
                f"dataset {self.name}: file: {self.file!r:.80} leads out of the data folder",
                allowed="a path inside of the folder of --data",
            )

    @property
    def shows_images(self) -> bool:
        """Whether its samples have images, as far as its file says."""
        return self.modality is not None or self.columns.image is not None

    @property
    def own_labels(self) -> tuple[Label, ...]:
        """The labels that its file lists."""
        kind = self.modality or "image"
        rows = [(label_of(row.name, kind), row) for row in self.labels]
        return tuple(
            Label(label.name, kind, row.phrase or label.phrase, row.question or label.question) for label, row in rows
        )

    @property
    def to_get(self) -> str:
        """What to get, from where, under which licence."""
        where = f" from {self.url}" if self.url else ""
        return f"{self.title}{where}, licence {self.license}"

    def located(self, data: Path | None) -> Path | None:
        """Its file in the user's data folder or in one of that folder's, None where it is in none."""
        if self.file is None:
            return None
        if data is None:
            own = Path(self.file)  # a user's, who named it
            return own if own.is_absolute() and own.exists() else None
        if (data / self.file).exists():
            return data / self.file
        inside = sorted(folder / self.file for folder in data.iterdir() if folder.is_dir()) if data.is_dir() else []
        return next((path for path in inside if path.exists()), None)
