"""An ONNX graph as expressions: what each output computes of inputs, constants and stored tensors.

Two graphs compute the same, node by node, exactly where their outputs are the same expression: names of values, their
order and what is stored twice do not matter, while operators, attributes and constants count bit for bit. Equal
expressions of one `Pool` are one object, so graphs of thousands of nodes are compared by identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.onnx.graph import onnx

INPUT, CONSTANT, STORED = "input", "constant", "stored tensor"
_ROUNDING = 1e-6  # relative
_LONGEST = 6  # numbers of a constant that a message shows


@dataclass(frozen=True, eq=False, slots=True)
class Expression:
    """One value.

    Attributes:
        operator: with its domain, where that is not ONNX's own; or one of `INPUT`, `CONSTANT`, `STORED`.
        attributes: sorted pairs of name and value. Of a leaf, what tells it from others: an input's name; a constant's
            type, shape and bytes; a stored tensor's
            name and type.
        inputs: in order.
    """

    operator: str
    attributes: tuple[Any, ...]
    inputs: tuple[Expression, ...]

    @property
    def array(self) -> NDArray[Any]:
        """A constant's numbers."""
        dtype, shape, data = self.attributes
        return np.frombuffer(data, dtype).reshape(shape)

    def __str__(self) -> str:
        if self.operator == CONSTANT:
            numbers = self.array.ravel()
            shown = ", ".join(f"{number:.8g}" for number in numbers[:_LONGEST])
            return f"constant [{shown}{', ...' if numbers.size > _LONGEST else ''}]"
        if self.operator in (INPUT, STORED):
            return f"{self.operator} {self.attributes[0]}"
        settings = ", ".join(f"{name} {value}" for name, value in self.attributes)
        return f"{self.operator}({settings})" if settings else self.operator


class Pool:
    """Where expressions are made, each once."""

    def __init__(self) -> None:
        self._made: dict[Any, Expression] = {}
        self._tables: list[NDArray[np.float32]] = []

    def make(self, operator: str, *inputs: Expression, attributes: Iterable[Any] = ()) -> Expression:
        """The expression of an operator and its inputs."""
        given = tuple(attributes)
        key = operator, given, tuple(map(id, inputs))
        if key not in self._made:
            self._made[key] = Expression(operator, given, inputs)
        return self._made[key]

    def constant(self, values: Any, dtype: Any = np.float32) -> Expression:
        """Numbers inside the graph.

        Tables of float32 are computed: another CPU's powers differ in their last bits, so those that nearly equal one
        before are that one.
        """
        array = np.asarray(values, dtype)
        if array.dtype == np.float32 and array.size > 1:
            alike = (known for known in self._tables if known.shape == array.shape)
            known = next((one for one in alike if np.allclose(array, one, rtol=_ROUNDING, atol=0)), None)
            self._tables += [array] if known is None else []
            array = array if known is None else known
        return self.make(CONSTANT, attributes=(array.dtype.str, array.shape, array.tobytes()))


Simplify = Callable[[Expression], Expression]  # what stands in an expression's place, whose inputs are simplified


def read(pool: Pool, graph: Any, simplify: Simplify) -> tuple[dict[str, Expression], list[str]]:
    """The outputs of an `onnx.GraphProto` whose nodes were checked, and the names of nodes that none of them needs."""
    known: dict[str, Expression] = {}
    for tensor in graph.initializer:
        if tensor.external_data:
            known[tensor.name] = simplify(
                pool.make(STORED, attributes=(tensor.name, onnx().TensorProto.DataType.Name(tensor.data_type)))
            )
        else:
            array = onnx().numpy_helper.to_array(tensor)
            known[tensor.name] = pool.constant(array, array.dtype)
    for value in graph.input:
        known.setdefault(value.name, pool.make(INPUT, attributes=(value.name,)))
    needs: dict[str, tuple[str, Iterable[str]]] = {}
    for node in graph.node:
        operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        attributes = sorted((attribute.name, _value(attribute)) for attribute in node.attribute)
        inputs = (known[name] for name in node.input)
        known[node.output[0]] = simplify(pool.make(operator, *inputs, attributes=attributes))
        needs[node.output[0]] = node.name, node.input
    outputs = [value.name for value in graph.output]
    needed: set[str] = set()
    todo = list(outputs)
    while todo:
        if (name := todo.pop()) in needs and name not in needed:
            needed.add(name)
            todo += needs[name][1]
    return {name: known[name] for name in outputs}, [node for name, (node, _) in needs.items() if name not in needed]


def inside_out(outputs: Iterable[Expression], stop: Expression | None = None) -> Iterator[Expression]:
    """Everything that these are made of, each once, behind its inputs; what lies within `stop` is left out."""
    seen: set[Expression | None] = {stop}
    todo = [(value, False) for value in outputs]
    while todo:
        value, ready = todo.pop()
        if ready:
            yield value
        elif value not in seen:
            seen.add(value)
            todo.append((value, True))
            todo += [(one, False) for one in value.inputs if one not in seen]


@dataclass(frozen=True)
class Difference:
    """Where two expressions part: both there, and the last stored tensor's name on the way."""

    near: str
    expected: str
    actual: str


def difference(expected: Mapping[str, Expression], actual: Mapping[str, Expression]) -> Difference | None:
    """The innermost difference of the first outputs that differ; None where all are the same.

    Args:
        actual: of the same names.
    """
    todo = [
        (name, value, actual[name]) for name, value in reversed(list(expected.items())) if value is not actual[name]
    ]
    seen: set[tuple[int, int]] = set()
    while todo:
        near, mine, other = todo.pop()
        if (id(mine), id(other)) in seen:
            continue
        seen.add((id(mine), id(other)))
        alike = (mine.operator, mine.attributes, len(mine.inputs)) == (
            other.operator,
            other.attributes,
            len(other.inputs),
        )
        if not alike:
            return Difference(near, str(mine), str(other))
        near = next((str(value.attributes[0]) for value in mine.inputs if value.operator == STORED), near)
        pairs = zip(mine.inputs, other.inputs, strict=True)
        todo += [(near, one, another) for one, another in pairs if one is not another]
    return None


def _value(attribute: Any) -> Any:
    value = onnx().helper.get_attribute_value(attribute)
    return tuple(value) if isinstance(value, list) or hasattr(value, "extend") else _plain(value)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
