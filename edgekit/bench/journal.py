"""The journal of a benchmark: finished cells, a JSON line each, from which an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from edgekit.artifacts.documents import is_file, json_value
from edgekit.artifacts.files import append_line
from edgekit.artifacts.validation import Name, Sha256, StrictModel, validated
from edgekit.bench.cells import Outcome
from edgekit.errors import ArtifactError


class _Outcome(StrictModel):
    """An `Outcome` with a result."""

    task: Name
    result: Any
    seconds: float = Field(ge=0, le=1e9)
    error: None = None


class _Line(StrictModel):
    key: Sha256
    outcome: _Outcome


def append(path: Path, key: str, outcome: Outcome) -> None:
    """Write down an outcome, durably.

    Args:
        key: of all that it depends on.
    """
    append_line(path, json.dumps({"key": key, "outcome": asdict(outcome)}))


def read(path: Path) -> dict[str, Outcome]:
    """The outcomes of earlier runs by their keys; a line that an interrupt cut short, or that is none, is left out."""
    finished: dict[str, Outcome] = {}
    if not is_file(path):
        return finished
    with path.open("rb") as stream:
        for raw in stream:
            try:
                data = json_value(raw, str(path), ArtifactError, most_entries=len(raw))
                line = validated(_Line, data, str(path), ArtifactError)
            except ArtifactError:
                continue
            finished[line.key] = Outcome(line.outcome.task, line.outcome.result, line.outcome.seconds)
    return finished
