"""The labels of a classifier, as users write them: a text file of one a line, or TOML with several prompts a label.

scores = "softmax"                    # or "sigmoid", each label by itself, which is what there is without it
[labels]
"no finding" = ["normal lungs", "an unremarkable chest x-ray"]
pneumonia = "bacterial pneumonia"

Those of `benchmarks/labels` have names, a title and a source; in place of labels one may name a table of
`benchmarks/prompts` and a finding of it, which is then told from its absence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from edgekit.artifacts.documents import MOST_BYTES, read_bounded, read_toml
from edgekit.artifacts.find import find as find_toml
from edgekit.artifacts.find import names
from edgekit.artifacts.validation import Listed, Name, StrictModel, Text, validated
from edgekit.errors import InputError, UsageError
from edgekit.inputs.prompt_tables import prompt_table
from edgekit.runtime.model import Scores

_MOST, _MOST_PROMPTS, _MOST_CHARACTERS = 1000, 5000, 300_000  # all of them stand in the file's metadata
Prompt = Annotated[str, Field(min_length=1, max_length=2000)]


class Label(StrictModel):
    """What a classifier tells from others.

    Attributes:
        name: what its score is called.
        prompts: the texts whose vectors are averaged.
    """

    name: Name
    prompts: Listed[Prompt] = Field(min_length=1, max_length=1000)


class Labels(StrictModel):
    """All labels of a classifier, in the order of its scores.

    Attributes:
        scores: as `edgekit.runtime.model.Model.classify` has them.
    """

    labels: Listed[Label] = Field(min_length=1, max_length=_MOST)
    scores: Scores = "sigmoid"

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise ValueError(f"{twice!r:.80} stands twice")
        if self.scores == "softmax" and len(self.labels) == 1:
            raise ValueError("softmax over one label is always 1: name another, or take sigmoid")
        texts = [prompt for label in self.labels for prompt in label.prompts]
        if len(texts) > _MOST_PROMPTS or sum(map(len, texts)) > _MOST_CHARACTERS:
            raise ValueError(f"more than {_MOST_PROMPTS} prompts, or {_MOST_CHARACTERS} characters")
        return self

    @property
    def names(self) -> list[str]:
        """What the scores are called."""
        return [label.name for label in self.labels]

    @property
    def prompts(self) -> list[list[str]]:
        """The texts of each."""
        return [list(label.prompts) for label in self.labels]


class _Document(StrictModel):
    title: Text = ""
    source: Text = ""
    scores: Scores = "sigmoid"
    labels: dict[Name, Prompt | list[Prompt]] = Field(default_factory=dict, max_length=_MOST)
    table: Name | None = None
    finding: Name | None = None

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        if bool(self.labels) == bool(self.table) or bool(self.table) != bool(self.finding):
            raise ValueError("either labels, or a table and a finding of it")
        return self


def find(said: str) -> Path:
    """The file of labels that a path, or the name of a set of `benchmarks/labels`, means.

    Raises:
        UsageError: it is neither, or both.
    """
    path = Path(said)
    is_name = said in names("benchmarks/labels")
    if is_name and path.exists():
        raise UsageError(f"--labels {said}: a file here, and a set of labels", remedy=f"./{said} for the file")
    if is_name or not (path.exists() or path.suffix or len(path.parts) > 1):
        return find_toml("benchmarks/labels", said)
    return path


def described(name: str) -> tuple[Labels, str]:
    """A set of `benchmarks/labels` and its title. Raises as `find` and `read`."""
    path = find_toml("benchmarks/labels", name)
    return read(path), validated(_Document, read_toml(path, InputError), str(path), InputError).title


def read(path: Path) -> Labels:
    """The labels of a file: TOML by its suffix, else UTF-8 text whose lines are the labels and their prompts.

    Raises:
        InputError: the file cannot be read, holds no label, one twice, or something else.
        UsageError: the table of prompts that it names is none.
    """
    if path.suffix.lower() == ".toml":
        document = validated(_Document, read_toml(path, InputError), str(path), InputError)
        stated = {name: [said] if isinstance(said, str) else said for name, said in document.labels.items()}
        return _labels(path, list((stated or _told_apart(path, document)).items()), document.scores)
    try:
        text = read_bounded(path, InputError, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}", allowed="a label a line, in UTF-8; or TOML") from error
    lines = [line.strip() for line in text.splitlines()]
    return _labels(path, [(line, [line]) for line in lines if line], "sigmoid")


def _told_apart(path: Path, document: _Document) -> dict[str, list[str]]:
    """A finding of a table of prompts, and its absence."""
    finding = str(document.finding)
    for one in prompt_table(str(document.table)):
        if one.name.casefold() == finding.casefold() and one.absent:
            return {one.name: list(one.present), f"no {one.name}": list(one.absent)}
    raise InputError(f"{path}: finding: {finding!r:.80} has no prompts for its absence in the table {document.table}")


def _labels(path: Path, stated: list[tuple[str, list[str]]], scores: Scores) -> Labels:
    data = {"labels": [{"name": name, "prompts": prompts} for name, prompts in stated], "scores": scores}
    return validated(Labels, data, str(path), InputError, remedy="a label a line, or TOML: [labels] NAME = PROMPT")
