"""Tables of prompts by finding, so that published ones can be used: data in `benchmarks/prompts/<table>.toml`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from edgekit.artifacts import find
from edgekit.artifacts.validation import Listed, Name, StrictModel, Text, validated
from edgekit.errors import UsageError

_Prompt = Annotated[Text, Field(min_length=1)]


class PromptSet(StrictModel):
    """The prompts that stand for one finding, or one class. Their embeddings are averaged.

    Attributes:
        name: the finding's, as data sets call it; upper and lower case are one.
        present: said of an image that shows it.
        absent: said of one that does not; empty for a class, which competes with other classes.
        source: where the prompts were published, or whose they are.
        complete: whether these are all of the source's.
    """

    name: Name
    present: Listed[_Prompt] = Field(min_length=1, max_length=1000)
    absent: Listed[_Prompt] = Field(default=(), max_length=1000)
    source: Text = Field(min_length=1)
    complete: bool


class _Table(StrictModel):
    set: Listed[PromptSet] = Field(min_length=1, max_length=1000)


def prompt_table(name: str) -> tuple[PromptSet, ...]:
    """The table of this name, checked.

    Raises:
        UsageError: there is none, its file is wrong, or it has two sets of one name.
    """
    path = find.find("benchmarks/prompts", name)
    where = f"prompt table {path.stem}"
    remedy = f"correct {path}; benchmarks/README.md says what each key means"
    table = validated(_Table, find.load("benchmarks/prompts", name), where, UsageError, remedy=remedy).set
    names = [each.name.casefold() for each in table]
    if twice := [each for each in names if names.count(each) > 1]:
        raise UsageError(f"{where}: two sets of the name {twice[0]!r}", remedy=remedy)
    return table


def _loaded(given: Any) -> Any:
    return prompt_table(given) if isinstance(given, str) else given


# In a task's file the name of a table; in the task its sets, so that they are part of the task's identity and travel
# with it to whichever machine runs it.
PromptTable = Annotated[Listed[PromptSet], BeforeValidator(_loaded)]
