"""The nodes of an ONNX graph: which operator each is, what enters and leaves it, and how it is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit.formats.onnx.model import OnnxNode
from edgekit.formats.onnx.wire import MessageShape, Span, Wire, WireReader, Wrong, signed

MAX_NAME_BYTES = 4096
_MAX_OPERATORS = 1024  # different ones
_MAX_VALUES = 64  # inputs, outputs or attributes of a node, or numbers in one

DOMAINS = ("", "com.microsoft", "ai.onnx.ml")  # "" is also spelled "ai.onnx"
# Operators that load files or machine code, which nothing here could check.
_LOADING = frozenset({("com.microsoft", "EPContext"), ("com.microsoft", "Snpe")})

_V, _L = Wire.VARINT, Wire.LEN
_NODE = MessageShape("NodeProto", once={3: _L, 4: _L, 7: _L}, many={1: _L, 2: _L, 5: _L})
_ATTRIBUTE = MessageShape(
    "AttributeProto",
    once={1: _L, 2: Wire.I32, 3: _V, 4: _L, 5: _L, 6: _L, 20: _V, 21: _L, 22: _L},
    many={8: _V, 10: _L, 11: _L, 23: _L},
)
_REFERENCE = 21  # to an attribute of a function: none is left where nodes are

FLOAT, INT, STRING, INTS = 1, 2, 3, 7  # AttributeProto.AttributeType, those of which a value is kept
Attribute = tuple[int, int | float | str | tuple[int, ...] | None]

Inner = Callable[[int, Span, str], object]  # given a tensor (5, 10) or a graph (6, 11) in an attribute, and its owner


class NodeReader:
    """Reads nodes one by one.

    Attributes:
        operators: domain and name of every operator so far.
    """

    def __init__(self, wire: WireReader, wrong: Wrong, whole: bool) -> None:
        """Args: whole: whether inputs, outputs and values of attributes are wanted, too."""
        self._wire, self._wrong, self._whole = wire, wrong, whole
        self.operators: set[tuple[str, str]] = set()

    def read(self, span: Span, inner: Inner) -> OnnxNode:
        """One node. Raises ArtifactError where it is broken, or none that may be."""
        fields: dict[int, Any] = {}
        values: dict[int, list[str]] = {1: [], 2: []}
        attributes: dict[str, Attribute] = {}
        for number, value in self._wire.fields(_NODE, span):
            if number == 5:
                owner = self._name(fields[3], "a node's name") if 3 in fields else "without name"
                name, attribute = self._attribute(value, f"an attribute of node {owner!r:.100}", inner)
                self._add(attributes, name, attribute, owner)
            elif number in values:
                if self._whole:
                    values[number].append(self._name(value, "an input's or output's name"))
                    self._check_count(len(values[number]), "inputs or outputs of a node")
            else:
                fields[number] = value
        operator = self._name(fields.get(4, (0, 0)), "an operator's name")
        domain = domain_of(self._name(fields[7], "an operator domain") if 7 in fields else "")
        self._count(domain, operator)
        called = self._name(fields.get(3, (0, 0)), "a node's name")
        return OnnxNode(domain, operator, called, tuple(values[1]), tuple(values[2]), attributes)

    def _name(self, span: Span, what: str) -> str:
        return self._wire.text(span, what, MAX_NAME_BYTES)

    def _check_count(self, count: int, what: str) -> None:
        if count > _MAX_VALUES:
            raise self._wrong(f"{count} {what}", f"at most {_MAX_VALUES}")

    def _add(self, attributes: dict[str, Attribute], name: str, attribute: Attribute, owner: str) -> None:
        if not self._whole:
            return
        if name in attributes:
            raise self._wrong(f"the attribute {name!r:.60} of node {owner!r:.100} stands twice")
        attributes[name] = attribute
        self._check_count(len(attributes), f"attributes of node {owner!r:.100}")

    def _count(self, domain: str, operator: str) -> None:
        if not operator:
            raise self._wrong("a node has no operator")
        if domain not in DOMAINS:
            allowed = ", ".join(domain or "ai.onnx" for domain in DOMAINS)
            raise self._wrong(f"the operator {operator!r:.60} is of the domain {domain!r:.60}", allowed)
        if (domain, operator) in _LOADING:
            raise self._wrong(f"the operator {domain}.{operator} loads files that nobody checked", "other operators")
        self.operators.add((domain, operator))
        if len(self.operators) > _MAX_OPERATORS:
            raise self._wrong("too many different operators", f"at most {_MAX_OPERATORS}")

    def _attribute(self, span: Span, owner: str, inner: Inner) -> tuple[str, Attribute]:
        fields: dict[int, Any] = {}
        numbers: list[int] = []
        for number, value in self._wire.fields(_ATTRIBUTE, span):
            if number in (5, 6, 10, 11):
                inner(number, value, owner)
            elif number in (22, 23):
                raise self._wrong(f"{owner} is a sparse tensor", "dense tensors")
            elif number != 8:
                fields[number] = value
            elif self._whole:
                for one in self._wire.integers(value, owner) if isinstance(value, tuple) else (signed(value),):
                    numbers.append(one)
                    self._check_count(len(numbers), f"numbers in {owner}")
        name = self._name(fields.get(1, (0, 0)), f"the name of {owner}")
        kind = 0 if _REFERENCE in fields else signed(fields.get(20, 0))
        return name, (kind, self._value(kind, fields, numbers, owner))

    def _value(self, kind: int, fields: Mapping[int, Any], numbers: list[int], owner: str) -> Any:
        if not self._whole:
            return None
        if kind == INTS:
            return tuple(numbers)
        if kind == INT:
            return signed(fields.get(3, 0))
        if kind == FLOAT:
            return self._wire.float32(fields[2]) if 2 in fields else 0.0
        return self._name(fields.get(4, (0, 0)), f"the text of {owner}") if kind == STRING else None


def domain_of(name: str) -> str:
    """A domain by the one name that is used here."""
    return "" if name == "ai.onnx" else name
