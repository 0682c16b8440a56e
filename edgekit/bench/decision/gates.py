"""Gates: what a level must keep, as people write it: `accuracy_drop <= 1, kl_p99 <= 0.2, first_token_s <= 20`.

A gate is tested at the bound of the 95 % interval that speaks against the level: `<=` at the upper, `>=` at the lower.
A level passes where the figure is proven to lie within, not where its middle does. Of several tasks with the figure,
each must keep it; `TASK:FIGURE` asks for one. A task that lacks the figure where another row has it, or that failed, is
not kept. Of tasks that cannot show a loss, no drop is asked: none there proves nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt

from edgekit.bench.decision.readings import Reading, names, readings
from edgekit.bench.records import Record
from edgekit.bench.results import scored_tasks
from edgekit.errors import UsageError, unknown
from edgekit.metrics import items_to_prove

_GATE = re.compile(
    r"(?:(?P<task>[^:<>=]+):)?(?P<figure>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+]?[0-9.]+(?:e[-+]?\d+)?)"
)
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {"<=": le, ">=": ge, "<": lt, ">": gt}
_EXAMPLE = (
    '"accuracy_drop <= 1, kl_p99 <= 0.2": FIGURE or TASK:FIGURE, then <=, >=, < or >, then a number: shares from 0 to '
    "1, drops in points, times, sizes and rates as the figure's name ends (_ms or _s, _bytes, _mb or _gb, _per_s)"
)


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

    @property
    def timed(self) -> bool:
        """Whether it is about how fast a machine is."""
        return self.figure.endswith(("_ms", "_s"))

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
        if not match or not math.isfinite(limit):
            raise UsageError(f"gate {part!r:.80}", allowed=_EXAMPLE)
        found.append(Gate(match["figure"], match["sign"], limit, match["task"] and match["task"].strip()))
    return tuple(found)


def check_known(asked: Sequence[Gate], records: Sequence[Record]) -> None:
    """Raise UsageError for a gate on a figure, or a task, that no row has, or beyond what a share can be."""
    tasks = {m.task for record in records for m in record.measurements}
    for gate in asked:
        if gate.task is not None and gate.task not in tasks:
            raise unknown("task in a gate", gate.task, sorted(tasks))
        if not any(gate.of(record) for record in records):
            raise unknown("figure in a gate", gate.figure, names(records))
        if not 0 <= gate.limit <= 1 and _is_share(gate, records):
            allowed = f"a number from 0 to 1, as {gate.figure} >= 0.5 for 50 %"
            if any(f"{gate.figure}_drop" in readings(record) for record in records):
                allowed += f"; {gate.figure}_drop is in points, as {gate.figure}_drop <= 1"
            raise UsageError(f"gate {gate}: {gate.figure} is a share", allowed=allowed)


def _is_share(gate: Gate, records: Sequence[Record]) -> bool:
    """Whether its figure is a score between 0 and 1, or has an interval that only shares have."""
    scored = scored_tasks(records)
    return any(
        "Wilson" in figure.method or (m.task in scored and gate.figure == m.headline)
        for record in records
        for m in record.measurements
        if gate.task in (None, m.task) and (figure := m.metrics.get(gate.figure))
    )


def verdict(gate: Gate, record: Record, others: Sequence[Record], unable: Collection[str] = ()) -> Verdict | None:
    """What a gate says of a level; None where it is not about this model.

    Args:
        others: all rows of the model. Where none has the figure and nothing failed, it is another model's: an
            encoder has no first token.
        unable: tasks that cannot show a loss.
    """
    drop = gate.figure.endswith("_drop")
    there = {reading.task for row in others for reading in gate.of(row)} | _failed(gate, others)
    asked = {task for task in there if not (drop and task in unable)}
    if not asked:
        if there:
            return Verdict(str(gate), False, f"{', '.join(sorted(there))} cannot show a loss")
        failed = any(m.error for other in others for m in other.measurements)
        return Verdict(str(gate), False, f"{gate.figure} was not measured") if failed else None
    found = {reading.task: reading for reading in gate.of(record) if reading.task in asked}
    if missing := sorted(asked - found.keys()):
        where = f" on {', '.join(missing)}" if missing != [""] else ""
        return Verdict(str(gate), False, f"{gate.figure} was not measured{where}")
    worst = next((reading for reading in found.values() if not gate.keeps(reading)), None)
    if worst is None:
        worst = (max if gate.sign.startswith("<") else min)(found.values(), key=gate.bound)
    end = f"its interval's end {gate.bound(worst):.3g}" if worst.interval else "no interval"
    where = f" on {worst.task}" if worst.task else ""
    return Verdict(
        str(gate), gate.keeps(worst), f"{gate.figure} {worst.value:.3g}{where}, {end}{_more(gate, worst, record)}"
    )


def _failed(gate: Gate, rows: Sequence[Record]) -> set[str]:
    """The tasks that would have the figure, by their headline, and failed in some row."""
    return {
        m.task
        for row in rows
        for m in row.measurements
        if m.error and gate.task in (None, m.task) and m.headline and gate.figure in (m.headline, f"{m.headline}_drop")
    }


def _more(gate: Gate, broken: Reading, record: Record) -> str:
    """How many items would prove a drop to lie within, where it does and its interval does not."""
    measured = record.of(broken.task)
    if not (measured and measured.paired and gate.figure == f"{measured.headline}_drop") or gate.keeps(broken):
        return ""
    if not broken.value < gate.limit <= 100 or gate.limit <= 0 or not gate.sign.startswith("<"):
        return ""
    # The end of an interval at 95 % is a one-sided test at half of the rest.
    needed = items_to_prove(measured.paired, gate.limit / 100, error=0.025, sides=1)
    return f"; a level that lost nothing would need {needed:,} items" if needed and needed > measured.n else ""
