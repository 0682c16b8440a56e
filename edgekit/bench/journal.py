"""The journal of a benchmark: finished cells, a JSON line each, from which an interrupted run goes on.

A line's key is the hash of all that its outcome depends on, so journals of several runs and machines are one: put
another machine's `cells.jsonl` beside this one's under any name that ends in `.jsonl`, and what it holds is not
measured again. A line that stands in both counts once. Each line has the hash of its content, so that a damaged one is
measured again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from edgekit.artifacts.documents import is_file, json_value
from edgekit.artifacts.files import append_line, sha256_json, write_atomically
from edgekit.artifacts.validation import Name, Sha256, StrictModel, validated
from edgekit.bench.cells import Outcome
from edgekit.errors import ArtifactError

FILE = "cells.jsonl"
_NUMBER = "not finite"  # the only key of an object that stands for a number that JSON has none for


class _Outcome(StrictModel):
    """An `Outcome` with a result."""

    task: Name
    result: Any
    seconds: float = Field(ge=0, le=1e9)
    error: None = None


class _Line(StrictModel):
    """One line.

    Attributes:
        sha256: of the key and the outcome, as JSON has them.
    """

    key: Sha256
    outcome: _Outcome
    sha256: Sha256


def append(folder: Path, key: str, outcome: Outcome) -> None:
    """Write down an outcome in a folder's journal, durably.

    Args:
        key: of all that it depends on.
    """
    written = asdict(replace(outcome, result=_finite(outcome.result)))
    line = {"key": key, "outcome": written, "sha256": sha256_json([key, written])}
    append_line(folder / FILE, json.dumps(line, allow_nan=False))


def read(folder: Path) -> dict[str, Outcome]:
    """The outcomes that a folder's journals hold, by their keys; of two of one key the folder's own, then the first.

    A line that an interrupt cut short, that was changed, or that is none, is left out.
    """
    finished: dict[str, Outcome] = {}
    for path in _files(folder):
        for _, line in _lines(path):
            if line is not None and line.key not in finished:
                result = _numbers(line.outcome.result)
                finished[line.key] = Outcome(line.outcome.task, result, line.outcome.seconds)
    return finished


def remove(folder: Path, keys: Collection[str]) -> None:
    """Take the outcomes of these keys out of a folder's journals."""
    for path in _files(folder):
        lines = list(_lines(path))
        kept = [raw for raw, line in lines if line is not None and line.key not in keys]
        if len(kept) < len(lines):
            write_atomically(path, b"".join(kept))


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jsonl"), key=lambda path: (path.name != FILE, path.name))
    return [path for path in found if is_file(path)]


def _lines(path: Path) -> Iterator[tuple[bytes, _Line | None]]:
    """Each line as it stands, and what it says; None for one that says nothing."""
    with path.open("rb") as stream:
        for raw in stream:
            try:
                data = json_value(raw, str(path), ArtifactError, most_entries=len(raw))
                line = validated(_Line, data, str(path), ArtifactError)
                whole = sha256_json([data["key"], data["outcome"]]) == line.sha256
            except ArtifactError:
                yield raw, None
                continue
            yield raw, line if whole else None


def _finite(value: Any) -> Any:
    """A result without NaN and infinities, which a journal's strict JSON refuses: a damaged level has some."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: str(value)}
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, dict):
        if value.keys() == {_NUMBER} and value[_NUMBER] in ("nan", "inf", "-inf"):
            return float(value[_NUMBER])
        return {key: _numbers(entry) for key, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, list) else value
