"""Scores that others published for the model, beside what was measured here."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bench.published import Published, published
from edgekit.bench.records import Record
from edgekit.bench.report.blocks import Row, Table, filled
from edgekit.bench.report.columns import text_of
from edgekit.bench.report.figures import NONE
from edgekit.metrics import Estimate

_NOTE = (
    "Published by others for the original model, not measured here; beside each the full-precision model's figure, "
    "where it was measured on the same task:"
)
_HEADS = ("published", "task", "figure", "topic", "value", "measured here", "items", "source", "note")


def scores(records: Sequence[Record]) -> list[Published]:
    """What was published for this model on the tasks that were measured; nothing for a stand-in."""
    tasks = dict.fromkeys(m.task for record in records for m in record.measurements)
    recipes = dict.fromkeys(record.recipe for record in records if record.stand_in is None)
    return [one for recipe in recipes for task in tasks for one in published(recipe, task)]


def table(found: Sequence[Published], records: Sequence[Record]) -> Table | None:
    """A line for each; None for none."""
    rows = (
        Row(
            (
                one.model,
                one.task,
                one.figure.replace("_", " "),
                one.topic or NONE,
                f"{100 * one.value:.4g}",
                _measured(one, records),
                NONE if one.n is None else f"{one.n:,}",
                one.source,
                one.note or NONE,
            ),
            "published",
        )
        for one in found
    )
    return filled(Table(_HEADS, tuple(rows), _NOTE), keep=2)


def _measured(one: Published, records: Sequence[Record]) -> str:
    """Full precision's figure of the same task, or topic of it."""
    reference = next((record for record in records if record.kind == "reference"), None)
    measured = reference.of(one.task) if reference else None
    if measured is None or measured.dataset.get("published") == "no":  # others' items say nothing of these
        return NONE
    if not one.topic:
        figure = measured.metrics.get(one.figure)
        said = text_of(measured.kind, one.figure, figure, scored=True)
        return f"{said} (n = {figure.n:,})" if figure else said
    of_topic = measured.details.get("by_topic", {}).get(one.topic)
    if not of_topic or not of_topic.keys() >= {"low", "high", "n"}:
        return NONE
    figure = Estimate(*(of_topic[name] for name in ("value", "low", "high", "n")))
    return text_of(measured.kind, one.figure, figure, scored=True)
