"""What files of others may say, and the one place that turns pydantic's errors into ours.

Their schemas are strict: no "3" for 3, no true for 1, no field that nobody knows, and everything has a limit.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, TypeAdapter, ValidationError

from edgekit.errors import EdgekitError

T = TypeVar("T")

# A list in a file; its entries are as strict as all else, and the first wrong one is enough.
Listed = Annotated[tuple[T, ...], Strict(False), FailFast()]

Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # what every reader of JSON has exactly
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
Text = Annotated[str, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]  # a shorter one is no file's, and verifies none


class StrictModel(BaseModel):
    """A schema of what others may have written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
        first = problem.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        place = f"{inside}{field}" if field else whole
        message = ": ".join(filter(None, (where, place, first["msg"])))
        if shows_value:
            message += f", found {first['input']!r:.80}"
        raise error(message, remedy=remedy) from problem
