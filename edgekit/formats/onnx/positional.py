"""What a graph makes of positions, ids and lengths before any number of the model enters: masks, rotations, places.

A graph that is right for all prompts and batches that a proof runs may be wrong beyond them: from some position on, for
another number of images, items or tokens. Whatever begins there is computed of whole-number inputs and of shapes, for
no other operator decides anything. So these expressions are stated once more by the family, and no others may meet the
model's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.formats.audit import Compared
from edgekit.formats.onnx.collapse import LINEAR
from edgekit.formats.onnx.expressions import CONSTANT, INPUT, STORED, Expression, Pool, difference, inside_out
from edgekit.formats.onnx.graph import CONTRIB

_NUMBERS = "numbers of the model"  # whose shape alone is asked for
# What numbers of the model may go through: nothing that compares, counts or cuts them off.
_SMOOTH = frozenset(
    {LINEAR, "MatMul", "Gemm", "Conv", "AveragePool", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "ReduceMean"}
    | {"Softmax", "Gelu", "LayerNormalization", "LpNormalization", f"{CONTRIB}.MultiHeadAttention"}
    | {"Gather", "ScatterND", "Concat", "Slice", "Reshape", "Expand", "Squeeze", "Transpose", "Identity"}
)


class Statement:
    """Expressions as a family writes them down, in operators of ONNX."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def op(self, operator: str, *inputs: Expression, **attributes: Any) -> Expression:
        """An operator."""
        return self._pool.make(operator, *inputs, attributes=sorted(attributes.items()))

    def input(self, name: str) -> Expression:
        """An input of the graph."""
        return self._pool.make(INPUT, attributes=(name,))

    def whole(self, numbers: Any) -> Expression:
        """A constant of whole numbers."""
        return self._pool.constant(numbers, np.int64)

    def real(self, numbers: Any) -> Expression:
        """A constant of float32."""
        return self._pool.constant(numbers)

    def numbers(self, operator: str) -> Expression:
        """Whatever an operator makes of the model's numbers, where only its shape is asked for."""
        return self._pool.make(_NUMBERS, attributes=(("given by", operator),))


Stated = Callable[[Statement, Any], Mapping[str, Expression]]  # transformers' configuration -> by a name for people


def differing(
    pool: Pool, outputs: Mapping[str, Expression], whole: Iterable[str], stated: Mapping[str, Expression]
) -> Iterator[Compared]:
    """What decides by the model's numbers; then what is stated and does not meet them, and what does unstated.

    Args:
        outputs: of a graph, its codecs' operators put back.
        whole: the inputs that are whole numbers.
    """
    given = _Given(pool, frozenset(whole))
    found = dict.fromkeys(given.to_numbers(outputs.values()))
    for value in given.decided:
        yield Compared("constant", "what numbers of the model decide", str(value), None, "no such operator")
    others = [value for value in found if value not in stated.values()]
    for name, right in stated.items():
        if right in found:
            continue
        other = next((value for value in others if value.operator == right.operator), None)
        parts = difference({name: right}, {name: other}) if other else None
        yield Compared("constant", name, parts and parts.actual, parts.expected if parts else str(right))
    for value in others:
        yield Compared("constant", "what is made of positions, ids and lengths", str(value), None, ", ".join(stated))


class _Given:
    """Which expressions are made of whole numbers, shapes and constants alone.

    Attributes:
        decided: operators that decide by the model's numbers.
    """

    def __init__(self, pool: Pool, whole: frozenset[str]) -> None:
        self._pool, self._whole = pool, whole
        self._plain: dict[Expression, Expression | None] = {}  # None: numbers of the model
        self.decided: list[Expression] = []

    def to_numbers(self, outputs: Iterable[Expression]) -> Iterator[Expression]:
        """Those of them that enter an operator on the model's numbers, or leave the graph."""
        ends = list(outputs)
        for value in inside_out(ends):
            plain = self._plain[value] = self._without_numbers(value)
            if plain is None:
                entering = (self._plain[one] for one in value.inputs)
                yield from (one for one in entering if one is not None and one.operator != CONSTANT)
                if value.inputs and value.operator not in _SMOOTH:
                    self.decided.append(value)
            elif value in ends:
                yield plain

    def _without_numbers(self, value: Expression) -> Expression | None:
        if value.operator == STORED or (value.operator == INPUT and value.attributes[0] not in self._whole):
            return None
        inputs = [self._plain[one] for one in value.inputs]
        if value.operator == "Shape":
            (of,) = value.inputs
            inputs = [inputs[0] or (of if of.operator == INPUT else Statement(self._pool).numbers(of.operator))]
        known = [one for one in inputs if one is not None]
        if len(known) < len(inputs):
            return None
        return self._pool.make(value.operator, *known, attributes=value.attributes) if known else value
