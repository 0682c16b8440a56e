"""What records know that each level has lost, for plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgekit.bench.decision.readings import first
from edgekit.bench.records import Record
from edgekit.errors import UsageError
from edgekit.planning import Loss, PlannedModel

# The figures that say how far a level lies from full precision, as `edgekit.bench.decision.readings` names them.
FIGURES = ("kl", "kl_answers", "cosine_image", "cosine_text", "accuracy")


def losses(records: Iterable[Record], model: PlannedModel, source: str) -> Mapping[str, Loss]:
    """Variant -> what was measured of it: of this very checkpoint, and where there is an artifact, of its very parts.

    `accuracy_drop` is the largest over all tasks with scores, in points; `accuracy` the first such task's.

    Args:
        source: where the records come from, for people.

    Raises:
        UsageError: of a recipe alone, they are of several checkpoints, and nothing says which one is planned for.
    """
    known = ((record, _figures(record)) for record in records if record.recipe == model.name)
    own = [(record, figures) for record, figures in known if figures and _is_planned(record, model)]
    checkpoints = {record.source_sha256 for record, _ in own}
    if own and model.sha256:
        checkpoints &= {model.sha256()}
    if len(checkpoints) > 1:
        raise UsageError(f"{source}: results of {len(checkpoints)} checkpoints", remedy="name the one to plan for")
    found: dict[str, Loss] = {}
    for record, figures in own:
        if record.source_sha256 in checkpoints and record.level:
            found.setdefault(record.level, Loss(figures, f"{source}, of the checkpoint {record.source_sha256[:16]}"))
    return found


def _figures(record: Record) -> dict[str, float]:
    """What it says that was lost; a drop of nothing is 0, not -0."""
    figures = {name: reading.value for name in FIGURES if (reading := first(record, name))}
    drops = [-100 * m.paired.difference.value for m in record.measurements if m.paired and m.headline == "accuracy"]
    return {**figures, "accuracy_drop": max(drops) + 0.0} if drops else figures


def _is_planned(record: Record, model: PlannedModel) -> bool:
    """Whether it is of a variant as it is opened unless tuned, and of parts that are those planned for, if written."""
    if record.kind != "variant" or record.tuned or record.level is None or record.level not in model.variants:
        return False
    written = {part.role: part.id for part in model.variants[record.level] if part.id}
    return not written or dict(record.part_ids or {}) == written
