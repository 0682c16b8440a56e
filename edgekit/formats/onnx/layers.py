"""Whether all layers of a graph that transformers calls alike are alike, expression by expression.

Exactness is shown on a few layers of every kind; this carries it to the depth of the whole model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.expressions import INPUT, STORED, Expression, Pool, difference, inside_out

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a layer, in a tensor's or a cache's name
_SHARED = -1  # what no layer makes: inputs, masks, rotations


def check_layers(where: str, outputs: Mapping[str, Expression], kinds: Sequence[str]) -> None:
    """Hold each layer but the first, which begins otherwise, to the first one of its kind behind it.

    Args:
        where: how messages name the graph.
        kinds: of each layer, as transformers has it.

    Raises:
        ArtifactError: a layer differs from another of its kind, is like one of another kind, or is one too many.
    """
    layers = _Layers(where, outputs, Pool())
    if layers.count != len(kinds):
        raise ArtifactError(f"{where}: {layers.count} layers", allowed=f"{len(kinds)}, by config.json")
    first: dict[str, int] = {}
    given = {number: layers.given(number) for number in range(1, layers.count - 1)}
    for number, kind in enumerate(kinds[1:], 1):
        right = given.get(first.setdefault(kind, number))
        # Of the last one only the head says what it gives: it must be among what there is.
        same = given[number] == right if number in given else right is None or right <= layers.made(number)
        if not same:
            differ = f"{where}: layer {number} differs from layer {first[kind]}"
            raise ArtifactError(differ, allowed=f"layers that are alike, both of {kind}")
    kinds_of = [frozenset(given[number]) for number in first.values() if number in given]
    if len(set(kinds_of)) != len(kinds_of):
        raise ArtifactError(f"{where}: layers {sorted(first.values())} are alike", allowed=", ".join(first))


def check_piece(
    where: str,
    pool: Pool,
    whole: tuple[Mapping[str, Expression], Sequence[str]],
    piece: tuple[Mapping[str, Expression], Sequence[str]],
) -> None:
    """Hold a model's layers, which `check_layers` found alike, to those of a piece of it: the first, one of each kind,
    and what stands behind the last.

    Args:
        where: how messages name the graph.
        pool: of both.
        whole, piece: the outputs of each, without the numbers that configurations state; and its layers' kinds.

    Raises:
        ArtifactError: the model computes something else.
    """
    if whole[1] == piece[1]:
        if parts := difference(piece[0], whole[0]):
            raise _another(where, f"near {parts.near}: {parts.actual}")
        return
    ours, theirs = _Layers(where, whole[0], pool), _Layers(where, piece[0], pool)
    if ours.given(0) != theirs.given(0):
        raise _another(where, "the first layer")
    middle = {kind: whole[1].index(kind, 1) for kind in dict.fromkeys(whole[1][1:-1])}
    for kind, number in middle.items():
        place = piece[1].index(kind, 1)
        if not ours.given(number) <= (theirs.given(place) if place < theirs.count - 1 else theirs.made(place)):
            raise _another(where, f"a layer of {kind}")
    heads = [layers.head(ours.result(middle[kinds[-1]])) for layers, kinds in ((ours, whole[1]), (theirs, piece[1]))]
    if heads[0] != heads[1]:
        raise _another(where, "what stands behind the last layer")


def _another(where: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{where}: {what} is another than in the piece of the model that is compared with transformers",
        allowed="one model, whatever its size",
    )


@dataclass
class _Layers:
    """The layers of a graph: each takes what the one before gave, and what all share."""

    where: str
    outputs: Mapping[str, Expression]
    pool: Pool

    def __post_init__(self) -> None:
        self._before = self.pool.make(INPUT, attributes=("what the layer before gave",))
        self._owner: dict[Expression, int] = {}
        self._users: dict[Expression, int] = {}  # the last layer that reads it
        for value in inside_out(self.outputs.values()):
            stored = _number(value) if value.operator == STORED else _SHARED
            mine = self._owner[value] = max([stored, *(self._owner[one] for one in value.inputs)])
            for one in value.inputs:
                self._users[one] = max(mine, self._users.get(one, _SHARED))
        self.count = max(self._owner.values()) + 1

    def given(self, number: int) -> set[Expression]:
        """What a layer, not the last, gives to the next one and as outputs, as if it had no number."""
        values = self._result(number), *self._caches(number)
        plain = self._plain(number, values, self._result(number - 1) if number else None)
        return {plain[value] for value in values}

    def result(self, number: int) -> Expression:
        """What a layer, not the first or the last, gives to the next one, as if it had no number."""
        value = self._result(number)
        return self._plain(number, [value], self._result(number - 1))[value]

    def made(self, number: int) -> set[Expression]:
        """All that follows from what the layer before gave, as if it had no number."""
        return set(self._made(number).values())

    def head(self, last: Expression) -> dict[str, Expression]:
        """The outputs that follow from what the last layer gives, which is `last` without a number."""
        number = self.count - 1
        result = next((value for value, plain in self._made(number).items() if plain is last), None)
        behind = {result}
        for value in inside_out(self.outputs.values()):
            if not behind.isdisjoint(value.inputs):
                behind.add(value)
        outputs = {name: value for name, value in self.outputs.items() if value in behind}
        plain = self._plain(number, outputs.values(), result)
        return {name: plain[value] for name, value in outputs.items()}

    def _made(self, number: int) -> dict[Expression, Expression]:
        return self._plain(number, self.outputs.values(), self._result(number - 1))

    def _result(self, number: int) -> Expression:
        """The one value that all later layers follow from: the innermost of those that they read."""
        read = [value for value, owner in self._owner.items() if owner == number < self._users.get(value, _SHARED)]
        if not read:
            raise ArtifactError(f"{self.where}: nothing follows from layer {number}")
        # Those behind it are what the next norm begins with, which needs no tensor.
        return read[0]

    def _caches(self, number: int) -> list[Expression]:
        return [value for value in self.outputs.values() if self._owner[value] == number and value.inputs]

    def _plain(
        self, number: int, outputs: Iterable[Expression], stop: Expression | None
    ) -> dict[Expression, Expression]:
        """What a layer computes up to these, without its number, of what `stop` gives."""
        outputs, plain = list(outputs), {stop: self._before} if stop else {}
        for value in inside_out(outputs, stop):
            if self._owner[value] == _SHARED:
                plain[value] = value
            elif value.inputs:
                inputs = [
                    _without_number(self.pool, one) if _number(one) == number else plain[one] for one in value.inputs
                ]
                plain[value] = self.pool.make(value.operator, *inputs, attributes=value.attributes)
            else:
                plain[value] = value
        return plain


def _number(value: Expression) -> int:
    """Of the layer that a tensor or a cache belongs to; no layer's for all else."""
    found = _NUMBER.search(value.attributes[0]) if value.operator in (STORED, INPUT) else None
    return int(found[0]) if found else _SHARED


def _without_number(pool: Pool, leaf: Expression) -> Expression:
    name, *rest = leaf.attributes
    return pool.make(leaf.operator, attributes=(_NUMBER.sub("N", name), *rest))
