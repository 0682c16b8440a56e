"""What files of others may say, and the one place that turns pydantic's errors into ours.

Their schemas are strict: no "3" for 3, no true for 1, no field that nobody knows, and everything has a limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, TypeAdapter, ValidationError

from edgekit.errors import ArtifactError, CheckpointError, EdgekitError

T = TypeVar("T")

ANEW = "get the folder anew from whoever made it, or export the artifact again"
# What to do about a file of this kind, where the caller knows nothing better.
_REMEDIES: dict[type[EdgekitError], str] = {
    ArtifactError: ANEW,
    CheckpointError: "download it again, or state it as transformers writes it",
}
_SHOULD = re.compile(r"^\w+ should (?:be|have|match) ")  # how pydantic begins what is allowed

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
    remedy: str | None = None,
) -> T:
    """Data as its schema has it: a value, or JSON as bytes.

    Args:
        where: what the message begins with: a file, or the name of a recipe.
        error: what is raised.
        inside: what stands before the name of the field.
        whole: names the data itself, where no field of it can be named.
        remedy: what the user can do; for None what one does about such a file.

    Raises:
        error: a field is missing, unknown or wrong; it names the first of them, its value, and what is allowed.
    """
    adapter = schema if isinstance(schema, TypeAdapter) else TypeAdapter(schema)
    try:
        return adapter.validate_json(data) if isinstance(data, bytes) else adapter.validate_python(data)
    except ValidationError as problem:
        problems = problem.errors(include_url=False, include_context=False)
        # A misspelled field is missing, too: what it is called tells more than what it should be.
        first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        field = ".".join(str(part) for part in first["loc"])
        place = f"{inside}{field}" if field else whole
        said, allowed = _said(first, schema)
        message = ": ".join(filter(None, (where, place, said)))
        raise error(message, allowed=allowed, remedy=remedy or _REMEDIES.get(error)) from problem


def _said(problem: Any, schema: Any) -> tuple[str, str | None]:
    """What is wrong, and what is allowed in its place."""
    message: str = problem["msg"]
    if problem["type"] in ("missing", "extra_forbidden"):
        missing = problem["type"] == "missing"
        fields = _fields(schema, problem["loc"], required=missing)
        return "is missing" if missing else "is unknown", fields and f"{'all of ' if missing else ''}{fields}"
    if begins := _SHOULD.match(message):
        return f"{problem['input']!r:.80}", message[begins.end() :]
    message = message.removeprefix("Value error, ")
    return f"{message}, found {problem['input']!r:.80}" if problem["loc"] else message, None


def _fields(schema: Any, place: Sequence[str | int], required: bool) -> str | None:
    """The names of the fields beside the one at this place, as far as schemas and lists of them lead there."""
    for name in place[:-1]:
        if isinstance(name, int):
            schema = next(iter(get_args(schema)), None)
        else:
            stated = getattr(schema, "model_fields", {}).get(name)
            schema = stated and stated.annotation
    fields = getattr(schema, "model_fields", {})
    return ", ".join(name for name, field in fields.items() if field.is_required() or not required) or None
