"""Scores that others published for a model and a task, which stand beside measured ones, labelled as published.

Data in `benchmarks/published/*.toml`. They were measured elsewhere, by protocols that a task repeats as far as they are
known; a `note` says where one is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydantic import Field

from edgekit.artifacts import find
from edgekit.artifacts.validation import Listed, Name, StrictModel, Text, validated
from edgekit.errors import UsageError


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        model: the recipe (`exports/<recipe>.toml`) of the model that it was measured on.
        task: what it is comparable with, by name.
        figure: which of the task's figures, as in a measurement's `metrics`.
        topic: of which topic alone; empty for all of the task.
        value: in the figure's unit: shares are between 0 and 1.
        n: items, None where its source does not say.
        source: where it was published.
        note: how it differs from the task; empty where nothing is known to.
    """

    model: str
    task: str
    figure: str
    topic: str
    value: float
    n: int | None
    source: str
    note: str


class _Score(StrictModel):
    """One published figure of several models, in percent."""

    task: Name
    figure: Name
    topic: Text = ""
    n: int | None = Field(default=None, gt=0)
    source: Name
    note: Text = ""
    percent: dict[str, float] = Field(min_length=1, max_length=1000)


class _File(StrictModel):
    """A file of scores.

    Attributes:
        sources: short name -> what it stands for.
    """

    sources: dict[str, Text] = Field(min_length=1, max_length=1000)
    scores: Listed[_Score] = Field(max_length=100_000)


def published(model: str, task: str, figure: str = "") -> tuple[Published, ...]:
    """What was published for a model and a task.

    Args:
        model: the recipe of its artifacts, as records have it.
        figure: one of the task's figures; all for none.

    Raises:
        UsageError: a file of scores is wrong; the message names the key.
    """
    asked = (model, task)
    return tuple(one for one in scores() if (one.model, one.task) == asked and figure in ("", one.figure))


@cache
def scores() -> tuple[Published, ...]:
    """All published scores, by the files' alphabet and in their order.

    Raises:
        UsageError: a file of scores is wrong; the message names the key.
    """
    found: list[Published] = []
    for name in find.names("benchmarks/published"):
        where, remedy = f"published scores {name}", "correct the file; benchmarks/README.md says what each key means"
        file = validated(_File, find.load("benchmarks/published", name), where, UsageError, remedy=remedy)
        for i, score in enumerate(file.scores):
            if score.source not in file.sources:
                said = f"{where}: scores.{i}.source: {score.source!r}"
                raise UsageError(said, allowed=", ".join(file.sources), remedy=remedy)
            for model, percent in score.percent.items():
                source, value = file.sources[score.source], percent / 100
                entry = (model, score.task, score.figure, score.topic, value, score.n, source, score.note)
                found.append(Published(*entry))
    return tuple(found)
