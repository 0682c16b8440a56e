"""Tasks by name: data in `benchmarks/<task>.toml`, checked by their kind. A new one of a known kind is one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.artifacts import find
from edgekit.artifacts.validation import validated
from edgekit.bench.kinds import Task, kinds
from edgekit.errors import UsageError


def task(name: str) -> Task:
    """The task of this name, checked.

    Raises:
        UsageError: there is no such task, or its file is wrong; the message names the key.
    """
    data = find.load("benchmarks", name)
    stated = parse({"name": find.find("benchmarks", name).stem, **data})
    if not isinstance(stated.dataset, str):
        stated.dataset.check_place()
    return stated


def parse(data: Mapping[str, Any]) -> Task:
    """Check a task's data.

    Raises:
        UsageError: a key is missing, unknown or wrong.
    """
    where, kind = f"task {data.get('name')!s:.80}", data.get("kind")
    schema = kinds().get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise UsageError(f"{where}: kind: {kind!r:.80}", allowed=", ".join(kinds()))
    remedy = "correct its file; benchmarks/README.md says what each key means"
    return validated(schema, dict(data), where, UsageError, remedy=remedy)
