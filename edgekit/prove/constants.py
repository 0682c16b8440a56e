"""The audit of a part's constants: each in its header or graphs is what transformers reads of the checkpoint."""

from __future__ import annotations

from edgekit.errors import ArtifactError, GateError
from edgekit.formats import FORMATS
from edgekit.prove.full_precision_runs import FullPrecisionRuns
from edgekit.prove.written import WrittenPart


def compared(written: WrittenPart, runs: FullPrecisionRuns) -> int:
    """How many constants a part has, all of which were compared.

    Raises:
        GateError: one differs, or the graph around them does; or a file is broken.
    """
    form = FORMATS[written.part.format]
    plan = runs.source.plan(written.role, form.exactness.level)
    try:
        return form.constants(plan, written.part, written.files, runs.original)
    except (ArtifactError, GateError) as error:
        raise GateError(
            f"{written.where}: audit: {error.message}", allowed=error.allowed, remedy=error.remedy
        ) from error
