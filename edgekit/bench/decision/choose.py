"""The choice of one level of each model on each machine: the smallest that keeps what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edgekit.bench.controls import why_blind
from edgekit.bench.decision.fit import Fit, fit
from edgekit.bench.decision.gates import Gate, Verdict, verdict
from edgekit.bench.decision.pareto import front
from edgekit.bench.decision.readings import first, names
from edgekit.bench.kinds import of_machine
from edgekit.bench.records import Record
from edgekit.bench.results import damage, scored_tasks
from edgekit.machine.device import SOLD_AS, Device
from edgekit.metrics import Comparison, items_to_prove

_SIGNIFICANT = 0.05
# What may be asked of levels that have no scores, where it was measured.
_GATES = ("kl <= 0.05", "kl_answers <= 0.05", "cosine_image >= 0.99", "cosine_text >= 0.99")


@dataclass(frozen=True)
class Question:
    """What a level must keep, and where it must run."""

    gates: tuple[Gate, ...] = ()
    device: Device | None = None

    def __bool__(self) -> bool:
        return bool(self.gates or self.device)


class Quality(IntEnum):
    """What the scores of a level prove against full precision's on the same items, over all tasks that have any."""

    EQUAL = 0  # every difference lies within its margin
    UNSEEN = 1  # no drop is seen, and too few items to say that there is none
    LESS = 2  # a drop is proven
    UNKNOWN = 3  # nothing was compared


@dataclass(frozen=True)
class Candidate:
    """One level as the choice sees it.

    Attributes:
        fit: None where no device was named.
        on_front: whether no other level is at least as good in everything and better in something.
    """

    record: Record
    quality: Quality
    verdicts: tuple[Verdict, ...]
    fit: Fit | None
    on_front: bool

    @property
    def allowed(self) -> bool:
        """Whether it keeps every gate and is not known to be too large."""
        return all(verdict.passed for verdict in self.verdicts) and not (self.fit and self.fit.fits is False)

    @property
    def against(self) -> str:
        """What forbids it; empty where nothing does."""
        broken = [f"{v.gate} is not kept ({v.why})" for v in self.verdicts if not v.passed]
        return "; ".join([*broken, *([self.fit.why] if self.fit and self.fit.fits is False else ())])


@dataclass(frozen=True)
class Decision:
    """What was decided for one model on one machine.

    Attributes:
        machine: the CPU's name and cores.
        chosen: the level to take; None where none can be named.
        reasons: why, one sentence each, without full stops.
        axes: what the Pareto front was drawn over.
    """

    model: str
    machine: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    reasons: tuple[str, ...]
    axes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """What a program reads of it."""
        return {
            "model": self.model,
            "machine": self.machine,
            "chosen": self.chosen and self.chosen.record.row,
            "reasons": self.reasons,
            "front": [c.record.row for c in self.candidates if c.on_front],
            "front_over": self.axes,
            "levels": {
                c.record.row: {
                    "quality": c.quality.name.lower(),
                    "gates": {v.gate: v.passed for v in c.verdicts},
                    "fits": c.fit.fits if c.fit else None,
                    "against": c.against,
                }
                for c in self.candidates
            },
        }


def decide(records: Sequence[Record], question: Question | None = None) -> list[Decision]:
    """A decision for each model on each machine, in the records' order."""
    grouped: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record.model, record.source_sha256, record.environment.fingerprint)
        grouped.setdefault(key, []).append(record)
    exact = {(r.model, r.source_sha256): r for r in records if r.kind == "reference"}
    made = (_decision(rows, exact.get(key[:2]), question or Question()) for key, rows in grouped.items())
    return [decision for decision in made if decision.candidates]


def machine(record: Record) -> str:
    """What people call the machine of a record."""
    return f"{record.environment.cpu}, {record.environment.cores} cores"


def comparisons(record: Record, scored: Sequence[str]) -> dict[str, Comparison]:
    """A row's comparison with full precision on each task that has scores."""
    return {m.task: m.paired for m in record.measurements if m.task in scored and m.paired}


def lost(comparison: Comparison) -> bool:
    """Whether a drop is proven, corrected for the levels that were compared where that was done."""
    p, difference = comparison.adjusted_p, comparison.difference
    return difference.high < 0 if p is None else difference.value < 0 and p < _SIGNIFICANT


def _decision(rows: Sequence[Record], full_precision: Record | None, question: Question) -> Decision:
    variants = _levels(rows)
    unable = _unable(full_precision, scored_tasks(rows))
    scored = [task for task in scored_tasks(rows) if task not in unable]
    on_front, axes = front(variants, scored)
    candidates = tuple(
        Candidate(
            row,
            _quality(row, scored),
            tuple(said for gate in question.gates if (said := verdict(gate, row, rows, unable))),
            fit(row, question.device) if question.device else None,
            best,
        )
        for row, best in zip(variants, on_front, strict=True)
    )
    chosen, reasons = _choose(candidates, scored, question)
    blind = [f"{c.row} shows no damage in any task, so no figure here can show any" for c in damage(rows) if c.blind]
    reasons = (*reasons, *unable.values(), *blind, *_elsewhere(rows[0], question))
    return Decision(rows[0].model, machine(rows[0]), candidates, chosen, reasons, tuple(axes))


def _unable(full_precision: Record | None, scored: Sequence[str]) -> dict[str, str]:
    """The tasks that cannot show a loss, and why: what is equal there, or no worse, proves nothing."""
    measured = full_precision.measurements if full_precision else ()
    there = {m.task: m for m in measured if m.task in scored and m.headline in m.metrics}
    return {task: why for task, exact in there.items() if (why := why_blind(exact))}


def _elsewhere(record: Record, question: Question) -> list[str]:
    """That the times which gates ask for are not those of the device."""
    here, device = record.environment, question.device
    if device is None:
        return []
    same_memory = SOLD_AS <= here.memory_bytes / (1e9 * device.memory_gb) <= 1 / SOLD_AS
    if same_memory and here.cores == device.cores and set(device.instruction_sets) <= set(here.features):
        return []
    timed = dict.fromkeys(gate.figure for gate in question.gates if gate.timed)
    return [f"{', '.join(timed)}: times are this machine's ({machine(record)}), not {device.name}'s"] if timed else []


def _levels(rows: Sequence[Record]) -> list[Record]:
    """The rows to choose from: those of levels, without the ones that were only timed beside others that were not."""
    variants = [row for row in rows if row.kind == "variant"]
    asked = [row for row in variants if not all(of_machine(m.kind) for m in row.measurements)]
    return asked or variants


def _quality(row: Record, scored: Sequence[str]) -> Quality:
    compared = comparisons(row, scored)
    if not compared:
        return Quality.UNKNOWN
    if any(lost(one) for one in compared.values()):
        return Quality.LESS
    # What failed on a task is not proven to be equal there.
    everywhere = len(compared) == len(scored)
    return Quality.EQUAL if everywhere and all(one.within for one in compared.values()) else Quality.UNSEEN


def _choose(
    candidates: Sequence[Candidate], scored: Sequence[str], question: Question
) -> tuple[Candidate | None, tuple[str, ...]]:
    allowed = [candidate for candidate in candidates if candidate.allowed]
    if not allowed:
        return None, (f"no level {_asked(question, singular=True)}",)
    if _asks_for_quality(question.gates, candidates, scored):
        return min(allowed, key=_size), (_among(allowed, question, "smallest"),)
    quality = min(candidate.quality for candidate in allowed)
    alike = [candidate for candidate in allowed if candidate.quality is quality]
    if quality is Quality.UNKNOWN:
        there = names([candidate.record for candidate in candidates])
        gate = next((f', or say --gate "{gate}"' for gate in _GATES if gate.split()[0] in there), "")
        return None, (
            "no scores of any level could show a loss against full precision's, and no gate says what may be lost: "
            f"name a task that has scores{gate}",
        )
    if quality is Quality.EQUAL:
        which = _among(alike, question, "smallest")
        return min(alike, key=_size), (
            f"{which} with scores proven to lie within {_margins(alike, scored)} of full precision's",
        )
    safest = min(alike, key=lambda candidate: (-_least(candidate, scored), _size(candidate)))
    which = _among(alike, question, "one that can have lost least")
    if quality is Quality.LESS:
        return safest, (f"{which}; each of them is proven to have lost some of its score",)
    which += "; none of them has a proven drop of its scores" if len(alike) > 1 else ", without a proven drop of scores"
    if missing := [task for task in scored if task not in comparisons(safest.record, scored)]:
        return safest, (f"{which}; it was not compared on {', '.join(missing)}",)
    unproven = {task: one for task, one in comparisons(safest.record, scored).items() if one.margin and not one.within}
    needed = {task: items_to_prove(one, one.margin) or 0 for task, one in unproven.items() if one.margin}
    more = [f"{needed[task]:,} on {task}" for task, one in unproven.items() if needed[task] > one.difference.n]
    return safest, (
        which,
        "these items are too few to prove that nothing was lost: a level that lost nothing would need "
        f"{', '.join(more)}"
        if more
        else "these items do not prove that nothing was lost",
    )


def _among(levels: Sequence[Candidate], question: Question, superlative: str) -> str:
    """`the smallest of 3 levels that keep every gate`, or `the only level that keeps every gate`."""
    which = f"the {superlative} of {len(levels)} levels" if len(levels) > 1 else "the only level"
    return f"{which} that {_asked(question, singular=len(levels) == 1)}" if question else which


def _asked(question: Question, *, singular: bool) -> str:
    """`keep every gate and fit raspberry-pi-5`."""
    s = "s" if singular else ""
    here = " on this machine" if question.device and any(gate.timed for gate in question.gates) else ""
    asked = [f"keep{s} every gate{here}"] if question.gates else []
    return " and ".join([*asked, *([f"fit{s} {question.device.name}"] if question.device else [])])


def _asks_for_quality(gates: Sequence[Gate], candidates: Sequence[Candidate], scored: Sequence[str]) -> bool:
    """Whether a gate says what may be lost: of scores, or of what is measured against full precision."""
    measured = [m for c in candidates for m in c.record.measurements]
    compared = {name for m in measured if m.task in scored or m.noise_floor is not None for name in m.metrics}
    compared |= {f"{m.headline}_drop" for m in measured if m.task in scored}
    return any(gate.figure in compared or any(gate.figure.startswith(f"{n}_") for n in compared) for gate in gates)


def _size(candidate: Candidate) -> float:
    """Memory at its peak where that was measured of it, else by the manifest, else its files'."""
    found = (first(candidate.record, name) for name in ("peak_memory_bytes", "memory_bytes", "size_bytes"))
    return next((reading.value for reading in found if reading), math.inf)


def _least(candidate: Candidate, scored: Sequence[str]) -> float:
    """The most that it can have lost on any task, as a negative number."""
    lows = [one.difference.low for one in comparisons(candidate.record, scored).values()]
    known = len(lows) == len(scored) and all(map(math.isfinite, lows))
    return min(lows, default=-math.inf) if known else -math.inf


def _margins(alike: Sequence[Candidate], scored: Sequence[str]) -> str:
    found: Mapping[float, None] = {
        one.margin: None for c in alike for one in comparisons(c.record, scored).values() if one.margin is not None
    }
    points = [f"{100 * margin:g}" for margin in sorted(found)]
    return f"{' or '.join(points)} point{'' if points == ['1'] else 's'}"
