"""What only all rows together can say: p values corrected for the number of levels that were tried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from edgekit.bench.records import Measurement, Record
from edgekit.metrics import holm


def corrected(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records with `paired.adjusted_p` filled in, by Holm's method.

    A family is all levels, of every artifact and format, that one task compares with one full-precision model on the
    same data: of twenty equal levels, one looks different at 5 %. Controls are no such question and stay without, and
    nobody asks how many items they need.
    Corrected again after runs are merged, the figures are those of the rows that are there then.
    """
    families: dict[tuple[str, ...], list[tuple[int, int, float]]] = defaultdict(list)
    for row, record in enumerate(records):
        for place, measured in enumerate(record.measurements):
            p = _p(record, measured)
            if p is not None:
                families[_family(record, measured)].append((row, place, p))
    adjusted: dict[tuple[int, int], float] = {}
    for members in families.values():
        for (row, place, _), p in zip(members, holm([p for *_, p in members]), strict=True):
            adjusted[row, place] = p
    return tuple(
        replace(
            record,
            measurements=tuple(
                _with_p(measured, adjusted.get((row, place)), of_control=record.kind == "control")
                for place, measured in enumerate(record.measurements)
            ),
        )
        for row, record in enumerate(records)
    )


def _p(record: Record, measured: Measurement) -> float | None:
    asked = record.kind == "variant" and measured.paired and not measured.error
    return measured.paired.p if asked and measured.paired else None


def _family(record: Record, measured: Measurement) -> tuple[str, ...]:
    """Equal for figures that are compared with the same figure of full precision."""
    where = record.environment.fingerprint
    return record.source_sha256, where, measured.task_sha256, measured.dataset.get("sha256", "")


def _with_p(measured: Measurement, adjusted: float | None, *, of_control: bool) -> Measurement:
    if measured.paired is None:
        return measured
    needed = None if of_control else measured.paired.items_needed
    return replace(measured, paired=replace(measured.paired, adjusted_p=adjusted, items_needed=needed))
