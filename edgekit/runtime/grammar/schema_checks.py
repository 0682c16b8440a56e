"""JSON schemas of which every keyword can be enforced and that some finite document satisfies.

llguidance ignores a keyword that it has never heard of, such as a misspelt one, and some that it has. It also descends
into a schema by recursion, in a library without a guard against a full stack. So what it gets is bounded here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edgekit.errors import InputError
from edgekit.runtime.grammar.schema_shapes import (
    LISTS,
    ONE,
    TYPES,
    Schema,
    Targets,
    check_shape,
    in_circles,
    inner,
    wrong,
)

DEPTH = 64
MOST_SCHEMAS = 1_500
MOST_NUMBER = 2**53  # beyond it a float is no longer the integer that was written
MOST_COUNT = 100_000
MOST_REGEX = 10_000  # characters

_ANNOTATIONS = {
    *("$schema", "$id", "$comment", "title", "description", "default", "example", "examples", "deprecated"),
    *("readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
}
_MAPS = {"properties", "patternProperties", "$defs", "definitions"}
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_PLAIN = _COUNTS | _NUMBERS | {"$ref", "pattern", "format", "type", "enum", "const", "required"}
KEYWORDS = tuple(sorted(ONE | LISTS | _MAPS | _PLAIN))
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")

# JSON writes these as \uXXXX alone, which is forbidden: a name could be written twice with it.
_UNWRITABLE = {chr(code) for code in (*range(32), 127)} - set("\b\f\n\r\t")


def checked_schema(text: str) -> dict[str, Any]:
    """A schema without its annotations.

    Raises:
        InputError: it is no JSON, too deep or too large, says what is not enforced, or no finite document satisfies a
            part of it.
    """
    try:
        schema = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is no JSON: {error}") from error
    if not isinstance(schema, (dict, bool)):
        raise wrong("$", f"a schema of {type(schema).__name__}", "an object")
    _check_depth(schema)
    reader = _Reader()
    root = reader.schema(schema, "$", "#")
    targets = reader.targets()
    check_shape(root, reader.schemas, targets)
    return {} if isinstance(root, bool) else dict(root)


def is_recursive(schema: dict[str, Any]) -> bool:
    """Whether a checked schema may hold itself."""
    reader = _Reader()
    reader.schema(schema, "$", "#")
    return bool(in_circles(reader.targets(), inner))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r:.80} stands twice")
        found[name] = value
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        inner = [part for one in level for part in _parts(one)]
        if not inner:
            return
        level = inner
    raise InputError("the JSON schema is too deeply nested", allowed=f"{DEPTH} levels")


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


class _Reader:
    """Reads one schema; keeps each that it holds under its JSON pointer, and where references lead."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Schema, str]] = {}
        self._references: dict[str, str] = {}

    def schema(self, schema: Any, path: str, pointer: str) -> Schema:
        """A schema without annotations; `path` is for people, `pointer` for references."""
        if len(self._read) >= MOST_SCHEMAS:
            raise InputError("the JSON schema holds too many schemas", allowed=f"{MOST_SCHEMAS}")
        if isinstance(schema, bool):
            self._read[pointer] = schema, path
            return schema
        if not isinstance(schema, dict):
            raise wrong(path, f"{json.dumps(schema):.80} is no schema", "an object, true or false")
        read: dict[str, Any] = {}
        self._read[pointer] = read, path
        for name, value in schema.items():
            if name in _ANNOTATIONS and (name != "$id" or pointer == "#"):
                continue
            below = f"{path}.{name}", f"{pointer}/{_escaped(name)}"
            read[name] = self._keyword(name, value, *below)
        return read

    def _keyword(self, name: str, value: Any, path: str, pointer: str) -> Any:
        if name in ONE:
            return self.schema(value, path, pointer)
        if name in LISTS:
            if not isinstance(value, list) or not value:
                raise wrong(path, f"{json.dumps(value):.80} is no list of schemas", "one schema or more")
            return [self.schema(one, f"{path}[{n}]", f"{pointer}/{n}") for n, one in enumerate(value)]
        if name in _MAPS:
            if not isinstance(value, dict):
                raise wrong(path, f"{json.dumps(value):.80} holds no schemas", "an object of schemas")
            for key in value:
                _check_text(key, path)
            return {
                key: self.schema(one, f"{path}.{key:.80}", f"{pointer}/{_escaped(key)}") for key, one in value.items()
            }
        if name not in _PLAIN:
            raise wrong(path, "a keyword that is not enforced", ", ".join(KEYWORDS))
        _check_plain(name, value, path)
        if name == "$ref":
            self._references[value] = path
        return value

    @property
    def schemas(self) -> list[Schema]:
        """All that were read."""
        return [schema for schema, _ in self._read.values()]

    def targets(self) -> Targets:
        """What references lead to, with its path, by reference. Raises InputError where it is no schema in here."""
        for reference, path in self._references.items():
            if reference not in self._read:
                allowed = "#, or #/... with the place of a schema in this one; nothing is fetched"
                raise wrong(path, f"{reference!r:.80} leads to no schema", allowed)
        return {reference: self._read[reference] for reference in self._references}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_plain(name: str, value: Any, path: str) -> None:
    accepts, allowed = _RULES[name]
    if not accepts(value):
        raise wrong(path, f"{json.dumps(value):.80}", allowed)
    if name in ("enum", "const", "required"):
        _check_value(value, path)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COUNT


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_COUNTS, (_is_count, f"an integer from 0 to {MOST_COUNT}")),
    **dict.fromkeys(_NUMBERS, (_is_number, "a number whose size is at most 2^53")),
    "$ref": (lambda value: isinstance(value, str), "text"),
    "pattern": (lambda value: isinstance(value, str) and len(value) <= MOST_REGEX, f"text of at most {MOST_REGEX}"),
    "format": (lambda value: value in FORMATS, ", ".join(FORMATS)),
    "type": (_is_type, f"one or several of {', '.join(TYPES)}"),
    "required": (_are_texts, "a list of names"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list of one value or more"),
    "const": (lambda _: True, "any value"),
}


def _check_text(text: str, path: str) -> None:
    if not _UNWRITABLE.isdisjoint(text):
        raise wrong(path, f"a control character in {text!r:.80}", "text, line breaks and tabs")


def _check_value(value: Any, path: str) -> None:
    """Raise InputError where an answer cannot hold this value as it is."""
    for text in value if isinstance(value, dict) else (value,):
        if isinstance(text, str):
            _check_text(text, path)
    if isinstance(value, (int, float)) and abs(value) > MOST_NUMBER:
        raise wrong(path, "a number out of range", "numbers whose size is at most 2^53")
    for part in _parts(value):
        _check_value(part, path)
