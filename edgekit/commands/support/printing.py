"""Results on standard output: JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import sys
import warnings as python_warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgekit.errors import EdgekitWarning


def print_json(data: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output."""
    for line in lines:
        print(line)


def print_warnings(warnings: Iterable[str]) -> None:
    """What the user should know, on standard error."""
    for warning in warnings:
        print(f"edgekit: {warning}", file=sys.stderr)


@contextmanager
def told_by_edgekit() -> Iterator[list[str]]:
    """Collects what Python programs are told by `warnings`, for whoever prints it."""
    told: list[str] = []
    with python_warnings.catch_warnings(record=True) as caught:
        python_warnings.simplefilter("always", EdgekitWarning)
        yield told
        told += [str(warning.message) for warning in caught if issubclass(warning.category, EdgekitWarning)]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows under their keys, in aligned columns."""
    cells = [
        list(rows[0]),
        *([f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
