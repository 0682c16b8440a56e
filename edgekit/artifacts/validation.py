"""The one place that turns pydantic's errors into ours: where something is wrong, and what is wrong with it."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgekit.errors import EdgekitError

T = TypeVar("T")


def validated(
    schema: type[T] | TypeAdapter[T],
    data: Any,
    where: str,
    error: type[EdgekitError],
    *,
    inside: str = "",
    whole: str = "",
    shows_value: bool = False,
    remedy: str | None = None,
) -> T:
    """Data as its schema has it: a value, or JSON as bytes.

    Args:
        where: what the message begins with: a file, or the name of a recipe.
        error: what is raised.
        inside: what stands before the name of the field.
        whole: names the data itself, where no field of it can be named.
        shows_value: whether the message ends with the offending value, shortened.
        remedy: what the user can do.

    Raises:
        error: a field is missing, unknown or wrong; the message names the first of them.
    """
    adapter = schema if isinstance(schema, TypeAdapter) else TypeAdapter(schema)
    try:
        return adapter.validate_json(data) if isinstance(data, bytes) else adapter.validate_python(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        place = f"{inside}{field}" if field else whole
        message = ": ".join(filter(None, (where, place, first["msg"])))
        if shows_value:
            message += f", found {first['input']!r:.80}"
        raise error(message, remedy=remedy) from problem
