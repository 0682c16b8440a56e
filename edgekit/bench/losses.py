"""What records know that each level has lost, for plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgekit.bench.decision.readings import first
from edgekit.bench.records import Record
from edgekit.planning import Loss

# The figures that say how far a level lies from full precision, as `edgekit.bench.decision.readings` names them.
FIGURES = ("kl", "kl_answers", "cosine_image", "cosine_text", "accuracy")


def losses(records: Iterable[Record], recipe: str, source: str) -> Mapping[str, Loss]:
    """Variant -> what was measured of it, of the records of one recipe's model.

    `accuracy_drop` is the largest over all tasks with scores, in points; `accuracy` the first such task's.

    Args:
        source: where the records come from, for people.
    """
    found: dict[str, Loss] = {}
    for record in records:
        if record.kind != "variant" or record.recipe != recipe or record.tuned or record.level is None:
            continue
        figures = {name: reading.value for name in FIGURES if (reading := first(record, name))}
        drops = [-100 * m.paired.difference.value for m in record.measurements if m.paired and m.headline == "accuracy"]
        if drops:
            figures["accuracy_drop"] = max(drops)
        if figures:
            found.setdefault(record.level, Loss(figures, source))
    return found
