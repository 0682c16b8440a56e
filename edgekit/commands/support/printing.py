"""Results on standard output: JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def print_json(data: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output."""
    for line in lines:
        print(line)


def print_warnings(said: Iterable[str]) -> None:
    """What the user should know, on standard error."""
    for warning in said:
        print(f"edgekit: {warning}", file=sys.stderr)


@contextmanager
def own_warnings_printed() -> Iterator[None]:
    """Python warnings of edgekit's own kinds are printed as all others are, without a place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category.__module__.startswith("edgekit."):
                print_warnings([str(message)])
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows under their keys, in aligned columns."""
    cells = [
        list(rows[0]),
        *([f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
