"""The form that a client wants an answer in, in all the ways in which clients say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.serve.api.reading import ParameterError

_ALLOWED = 'text, json_object, or json_schema with {"name": ..., "schema": {...}}'


def constraint(format_: Any, where: str) -> dict[str, Any] | None:
    """What an answer is held to, as a `Job` has it; None for nothing.

    Args:
        format_: `{"type": "text"}`; `{"type": "json_object"}`, perhaps with a schema; or `{"type": "json_schema"}`
            with a schema inside of `json_schema`, as chat has it, or beside the type, as responses has it. A schema
            always holds, whether or not it is said to be strict.
        where: its parameter, for messages.

    Raises:
        ParameterError: it is none of these.
    """
    if format_ is None:
        return None
    kind = format_.get("type") if isinstance(format_, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_schema": _schema(format_, where) or {"type": "object"}}
    if kind == "json_schema":
        inner = format_.get("json_schema")
        found = _schema(inner if isinstance(inner, Mapping) else format_, where)
        if found is None:
            raise ParameterError(where, "a json_schema without a schema", allowed=_ALLOWED)
        return {"json_schema": found}
    raise ParameterError(where, f"a format of type {kind!r:.40}", allowed=_ALLOWED)


def _schema(format_: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    schema = format_.get("schema")
    if schema is not None and not isinstance(schema, dict):
        raise ParameterError(where, f"a schema that is a {type(schema).__name__}", allowed="an object")
    return schema
