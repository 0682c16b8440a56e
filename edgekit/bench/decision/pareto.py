"""The Pareto front: the levels that no other one is at least as good as in everything and better in something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.bench.decision.readings import readings
from edgekit.bench.records import Record


@dataclass(frozen=True)
class Axis:
    """One thing that a level is good or bad at.

    Attributes:
        figures: the first of these that every level has stands for it.
        sense: 1 where more is better, -1 where less is.
    """

    name: str
    figures: tuple[str, ...]
    sense: Literal[1, -1]


AXES = (
    Axis("KL", ("kl",), -1),
    Axis("KL in answers", ("kl_answers",), -1),
    Axis("cosine", ("cosine_image", "cosine_text"), 1),
    Axis("memory", ("peak_memory_bytes", "memory_bytes", "size_bytes"), -1),
    Axis("latency", ("first_token_ms", "image_encode_ms"), -1),
    Axis("decoding", ("decode_tokens_per_s",), 1),
)


def front(records: Sequence[Record], scored: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Which of these levels are on the front, and over which axes it was drawn.

    Each score and each figure of a task is an axis of its own where any level has it; what a level lacks counts as the
    worst, and so does what is no number. Middles are compared, without their intervals.

    Times that several runs measured are no axis: they were not interleaved.

    Args:
        scored: tasks whose headline is a score.
    """
    every = [
        {(reading.task, name): reading.value for name, found in readings(record).items() for reading in found}
        for record in records
    ]
    axes = _axes(records, scored, every)
    rows = [[_height(figures.get(key), sense) for _, key, sense in axes] for figures in every]
    return [not any(_dominates(other, row) for other in rows) for row in rows], [name for name, *_ in axes]


def _axes(
    records: Sequence[Record], scored: Sequence[str], every: Sequence[dict[tuple[str, str], float]]
) -> list[tuple[str, tuple[str, str], int]]:
    """Name, task and figure, and sense of each axis."""
    headlines = {m.task: m.headline for record in records for m in record.measurements}
    axes = [(task, (task, headlines[task]), 1) for task in scored if task in headlines]
    apart = {task for task in headlines if len({m.run for r in records if (m := r.of(task))}) > 1}
    there = {key for figures in every for key in figures}
    for axis in AXES:
        taken = next((figure for figure in axis.figures if any(name == figure for _, name in there)), None)
        keys = sorted(key for key in there if key[1] == taken and not (key[0] in apart and _is_time(key[1])))
        axes += [(f"{axis.name} ({key[0]})" if len(keys) > 1 else axis.name, key, axis.sense) for key in keys]
    return axes


def _is_time(figure: str) -> bool:
    """Whether times of several runs, which were not interleaved, cannot be compared in it."""
    return not figure.endswith("_bytes")


def _height(value: float | None, sense: int) -> float:
    return -math.inf if value is None or math.isnan(value) else sense * value


def _dominates(other: Sequence[float], row: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(other, row, strict=True)) and list(other) != list(row)
