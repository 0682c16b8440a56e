"""Constants of ONNX graphs, each stated once more by transformers' configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.formats.audit import Compared
from edgekit.formats.onnx.expressions import CONSTANT, INPUT, STORED, Expression, inside_out


@dataclass(frozen=True)
class Use:
    """One constant at one operator."""

    operator: str
    place: int | str
    beside: str | None
    value: Any

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for those that are the same."""
        value = self.value
        plain = (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        return self.operator, self.place, self.beside, plain


@dataclass(frozen=True)
class Constant:
    """A constant of a graph, or an operator's attribute, and where transformers' configuration has its value.

    Attributes:
        name: for people.
        operator: that it stands at, with its domain, where that is not ONNX's own.
        place: the number of the input, or the attribute's name.
        values: all of those that stand there, none of which may be missing.
        beside: the operator of the first other input; None for any.
        tolerance: relative, where transformers computes the value itself.
    """

    name: str
    operator: str
    place: int | str
    values: Sequence[Any]
    beside: str | None = None
    tolerance: float = 0.0

    def matches(self, use: Use) -> bool:
        """Whether this row states a constant that is used so."""
        here = self.operator, self.place
        return here == (use.operator, use.place) and self.beside in (None, use.beside)

    @property
    def distinct(self) -> Iterator[int]:
        """Which of the values are not there already."""
        known = [np.asarray(value).tolist() for value in self.values]
        return (at for at, value in enumerate(known) if value not in known[:at])

    def find(self, value: Any) -> int | None:
        """Which of the values this is."""
        return next((at for at, known in enumerate(self.values) if self._same(value, known)), None)

    def _same(self, value: Any, known: Any) -> bool:
        if not isinstance(value, np.ndarray):
            return bool(np.float32(value) == np.float32(known) if isinstance(value, float) else value == known)
        known = np.asarray(known, value.dtype)
        return value.shape == known.shape and np.allclose(value, known, rtol=self.tolerance, atol=0)


def uses_of(outputs: Iterable[Expression]) -> Iterator[Use]:
    """Every constant of these expressions, and every attribute."""
    for value in inside_out(outputs):
        if value.operator in (INPUT, CONSTANT, STORED):
            continue
        beside = next((one.operator for one in value.inputs if one.operator != CONSTANT), None)
        for at, one in enumerate(value.inputs):
            if one.operator == CONSTANT:
                yield Use(value.operator, at, beside, one.array)
        for name, setting in value.attributes:
            yield Use(value.operator, name, beside, setting)


def compared(uses: Iterable[Use], rows: Sequence[Constant]) -> Iterator[Compared]:
    """Every constant beside the one row that states it; then the values of rows that stand nowhere."""
    missing = {(row.name, at): row for row in rows for at in row.distinct}
    for use in uses:
        row = next((row for row in rows if row.matches(use)), None)
        place = f"{use.operator} {use.place}, beside {use.beside}"
        if row is None:
            yield Compared("constant", place, _plain(use.value), None, "none that no configuration states")
            continue
        name, at = f"{row.name} ({place})", row.find(use.value)
        if at is None:
            yield Compared("constant", name, _plain(use.value), None, " or ".join(str(_plain(v)) for v in row.values))
            continue
        missing.pop((row.name, at), None)
        yield Compared("constant", name, _plain(use.value), _plain(use.value))
    for (name, at), row in missing.items():
        yield Compared("constant", name, None, _plain(row.values[at]))


def _plain(value: Any) -> Any:
    """Without numpy's types."""
    return np.asarray(value).tolist()
