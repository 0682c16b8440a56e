"""Tasks by name: data in `benchmarks/<task>.toml`, checked by their kind. A new one of a known kind is one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter

from edgekit.artifacts import find
from edgekit.artifacts.validation import validated
from edgekit.bench.kinds import Task, kinds
from edgekit.errors import UsageError


def task(name: str) -> Task:
    """The task of this name, checked.

    Raises:
        UsageError: there is no such task, or its file is wrong; the message names the key.
    """
    data = find.load("benchmarks", name)
    return parse({"name": find.find("benchmarks", name).stem, **data})


def parse(data: Mapping[str, Any]) -> Task:
    """Check a task's data.

    Raises:
        UsageError: a key is missing, unknown or wrong.
    """
    schemas = tuple(dict.fromkeys(kinds().values()))
    schema: Any = Annotated[Union[schemas], Field(discriminator="kind")]  # noqa: UP007
    checked: TypeAdapter[Task] = TypeAdapter(schema)
    return validated(checked, data, f"task {data.get('name')}", UsageError, whole="kind", tag=data.get("kind"))
