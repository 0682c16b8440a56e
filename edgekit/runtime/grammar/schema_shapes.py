"""What a JSON schema's parts lead to: how deep, whether to an end, and how many patterns meet on one text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from edgekit.errors import InputError

# Schemas inside one another, references followed: the library's stack holds about 1,300 of the largest kind.
MOST_LEVELS = 500
# Patterns that one text has to match: to find out whether any does takes time that grows exponentially with them.
MOST_PATTERNS = 8
MOST_VISITS = 20_000
MOST_NAME_PATTERNS = 100  # of which any two are compared

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
ONE = {"items", "additionalProperties"}
LISTS = {"anyOf", "allOf", "oneOf", "prefixItems"}
_PATTERNS = {"pattern", "format"}  # a format becomes one

Schema = Mapping[str, Any] | bool
Targets = Mapping[str, tuple[Schema, str]]  # what references lead to, and its path, by reference


def check_shape(root: Schema, schemas: Iterable[Schema], targets: Targets) -> None:
    """Raise InputError where a schema is too deep, leads to no end, or brings too many patterns together.

    Args:
        schemas: it and all inside it.
    """
    _check_levels([root, *(target for target, _ in targets.values())])
    if loops := in_circles(targets, _beside):
        raise wrong(loops[0], "it refers to itself for the same value", "references to itself inside a value")
    _check_ends(root, targets)
    objects = [one for one in schemas if isinstance(one, Mapping)]
    if sum(len(one.get("patternProperties", ())) for one in objects) > MOST_NAME_PATTERNS:
        raise InputError("the JSON schema has too many patternProperties", allowed=f"{MOST_NAME_PATTERNS}")
    if sum(not one.keys().isdisjoint(_PATTERNS) for one in objects) > MOST_PATTERNS:
        _Patterns({name: target for name, (target, _) in targets.items()}).check(root)


def wrong(path: str, what: str, allowed: str) -> InputError:
    """An error that says where in a schema something stands."""
    return InputError(f"the JSON schema: {path}: {what}", allowed=allowed)


def in_circles(targets: Targets, within: Callable[[Schema], Iterator[Schema]]) -> list[str]:
    """Paths of the targets that lead to themselves through these parts of a schema, or to one that does."""
    leads = {name: set(_references(target, within)) for name, (target, _) in targets.items()}
    while leaves := {name for name, to in leads.items() if to.isdisjoint(leads)}:
        leads = {name: to for name, to in leads.items() if name not in leaves}
    return [targets[name][1] for name in leads]


def _references(schema: Schema, within: Callable[[Schema], Iterator[Schema]]) -> Iterator[str]:
    if isinstance(schema, Mapping) and "$ref" in schema:
        yield schema["$ref"]
    for one in within(schema):
        yield from _references(one, within)


def inner(schema: Schema) -> Iterator[Schema]:
    """The schemas directly inside one, definitions excepted: they count where a reference leads to them."""
    if isinstance(schema, bool):
        return
    for name, value in schema.items():
        if name in ONE:
            yield value
        elif name in LISTS:
            yield from value
        elif name in ("properties", "patternProperties"):
            yield from value.values()


def _beside(schema: Schema) -> Iterator[Schema]:
    """The schemas that apply to the same value as one does."""
    if isinstance(schema, Mapping):
        for name in ("allOf", "anyOf", "oneOf"):
            yield from schema.get(name, ())


def _levels(schema: Schema) -> int:
    return 1 + max(map(_levels, inner(schema)), default=0)


def _check_levels(entries: list[Schema]) -> None:
    """No way down through references is longer than all of their targets on top of each other."""
    if (levels := sum(map(_levels, entries))) > MOST_LEVELS:
        raise InputError(f"the JSON schema and what it refers to have {levels} levels", allowed=f"{MOST_LEVELS}")


def _check_ends(root: Schema, targets: Targets) -> None:
    """Raise InputError where a schema can only be satisfied by documents without an end, which no answer reaches."""
    ending: set[str] = set()
    while found := {name for name in targets.keys() - ending if _ends(targets[name][0], ending)}:
        ending |= found
    endless = [path for name, (_, path) in targets.items() if name not in ending]
    if endless or not _ends(root, ending):
        raise wrong(endless[0] if endless else "$", "no finite document satisfies it", "what can be satisfied")


def _ends(schema: Schema, ending: set[str]) -> bool:
    """Whether a finite document may satisfy a schema, if only these references have any."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all(_ends(one, ending) for one in schema.get("allOf", ())):
        return False
    if any(name in schema and not any(_ends(one, ending) for one in schema[name]) for name in ("anyOf", "oneOf")):
        return False
    if "const" in schema or "enum" in schema:
        return True
    types = schema.get("type", TYPES)
    types = {types} if isinstance(types, str) else set(types)
    if types - {"array", "object"}:
        return True
    properties = schema.get("properties", {})
    first = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    needed = [properties.get(name, True) for name in schema.get("required", ())]
    ways = [parts for kind, parts in (("object", needed), ("array", first)) if kind in types]
    return any(all(_ends(one, ending) for one in parts) for parts in ways)


class _Patterns:
    """Counts the patterns that may come together on one text, where schemas apply to the same value."""

    def __init__(self, targets: Mapping[str, Schema]) -> None:
        self._targets = targets
        self._under_way: set[str] = set()
        self._visits = 0

    def check(self, root: Schema) -> None:
        """Raise InputError where they are too many, or there are too many ways to come together."""
        if (most := self._most(root)) > MOST_PATTERNS:
            raise InputError(f"the JSON schema: {most} patterns may apply to one text", allowed=f"{MOST_PATTERNS}")

    def _most(self, schema: Schema) -> int:
        self._visits += 1
        if self._visits > MOST_VISITS:
            raise InputError("the JSON schema's references multiply too much", allowed=f"{MOST_VISITS} schemas in all")
        if isinstance(schema, bool):
            return 0
        together = sum(map(self._most, schema.get("allOf", ())))
        together += sum(self._largest(schema.get(name, ())) for name in ("anyOf", "oneOf"))
        together += self._referred(schema["$ref"]) if "$ref" in schema else 0
        inside = self._largest([*schema.get("prefixItems", ()), *(schema[name] for name in ONE if name in schema)])
        named = sum(self._largest(schema.get(name, {}).values()) for name in ("properties", "patternProperties"))
        return together + max(not schema.keys().isdisjoint(_PATTERNS), inside, named)

    def _largest(self, schemas: Iterable[Schema]) -> int:
        return max(map(self._most, schemas), default=0)

    def _referred(self, reference: str) -> int:
        if reference in self._under_way:
            return 0
        self._under_way.add(reference)
        most = self._most(self._targets[reference])
        self._under_way.remove(reference)
        return most
