"""Gates: what a level must keep, as people write it: `accuracy_drop <= 1, kl_p99 <= 0.2, first_token_s <= 20`.

A gate is tested at the bound of the 95 % interval that speaks against the level: `<=` at the upper, `>=` at the lower.
A level passes where the figure is proven to lie within, not where its middle does. Of several tasks with the figure,
each must keep it; `TASK:FIGURE` asks for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt

from edgekit.bench.decision.readings import Reading, names, readings
from edgekit.bench.records import Record
from edgekit.errors import UsageError, unknown

_GATE = re.compile(
    r"(?:(?P<task>[^:<>=]+):)?(?P<figure>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+]?[0-9.]+(?:e[-+]?\d+)?)"
)
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {"<=": le, ">=": ge, "<": lt, ">": gt}
_EXAMPLE = '"accuracy_drop <= 1, kl_p99 <= 0.2": FIGURE or TASK:FIGURE, then <=, >=, < or >, then a number'


@dataclass(frozen=True)
class Gate:
    """One condition on one figure.

    Attributes:
        task: the only one that is asked; None for every one that has the figure.
    """

    figure: str
    sign: str
    limit: float
    task: str | None = None

    def __str__(self) -> str:
        return f"{f'{self.task}:' if self.task else ''}{self.figure} {self.sign} {self.limit:g}"

    def of(self, record: Record) -> list[Reading]:
        """The figures of a row that it is about."""
        return [r for r in readings(record).get(self.figure, ()) if self.task in (None, r.task)]

    def bound(self, reading: Reading) -> float:
        """The end of the interval that speaks against the level."""
        return reading.high if self.sign.startswith("<") else reading.low

    def keeps(self, reading: Reading) -> bool:
        """Whether the bound lies within; one that is no number does not."""
        return _HOLDS[self.sign](self.bound(reading), self.limit)


@dataclass(frozen=True)
class Verdict:
    """What one gate says of one level.

    Attributes:
        passed: whether every task keeps it; a level that it was not measured on does not.
        why: the figure that decides, with its bound.
    """

    gate: str
    passed: bool
    why: str


def gates(texts: Sequence[str]) -> tuple[Gate, ...]:
    """The gates of one or several lists with commas between them.

    Raises:
        UsageError: one cannot be read.
    """
    found = []
    for part in [part.strip() for text in texts for part in text.split(",")]:
        match = _GATE.fullmatch(part)
        try:
            limit = float(match["limit"]) if match else 0.0
        except ValueError:
            match = None
        if not match:
            raise UsageError(f"gate {part!r:.80}", allowed=_EXAMPLE)
        found.append(Gate(match["figure"], match["sign"], limit, match["task"] and match["task"].strip()))
    return tuple(found)


def check_known(asked: Sequence[Gate], records: Sequence[Record]) -> None:
    """Raise UsageError for a gate on a figure, or a task, that no row has."""
    tasks = {m.task for record in records for m in record.measurements}
    for gate in asked:
        if gate.task is not None and gate.task not in tasks:
            raise unknown("task in a gate", gate.task, sorted(tasks))
        if not any(gate.of(record) for record in records):
            raise unknown("figure in a gate", gate.figure, names(records))


def verdict(gate: Gate, record: Record, others: Sequence[Record]) -> Verdict | None:
    """What a gate says of a level; None where it is not about this model.

    Args:
        others: all rows of the model. Where none has the figure and nothing failed, it is another model's: an
            encoder has no first token.
    """
    found = gate.of(record)
    if not found:
        asked = any(gate.of(other) for other in others) or any(m.error for r in others for m in r.measurements)
        return Verdict(str(gate), False, f"{gate.figure} was not measured") if asked else None
    worst = next((reading for reading in found if not gate.keeps(reading)), None)
    if worst is None:
        worst = (max if gate.sign.startswith("<") else min)(found, key=gate.bound)
    end = f"its interval's end {gate.bound(worst):.3g}" if worst.interval else "no interval"
    where = f" on {worst.task}" if worst.task else ""
    return Verdict(str(gate), gate.keeps(worst), f"{gate.figure} {worst.value:.3g}{where}, {end}")
