"""Results on standard output: JSON for programs, aligned columns for people."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from edgekit.errors import EdgekitWarning
from edgekit.terminal import json_text, printable, say, show


def print_json(data: Any, *, indent: int | None = 1) -> None:
    """One JSON value on standard output. Figures that are NaN or infinite are null there, and said."""
    missing: list[str] = []
    show(json_text(_finite(data, "", missing), indent))
    if missing:
        say(f"no finite number, null in JSON: {', '.join(missing[:10])}")


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output, each of which stays one."""
    for line in lines:
        show(printable(line))


def print_warnings(said: Iterable[str]) -> None:
    """What the user should know, on standard error."""
    for warning in said:
        say(warning)


def _finite(data: Any, place: str, missing: list[str]) -> Any:
    """JSON data with null in place of what is no finite number, and the places of those."""
    if isinstance(data, float) and not math.isfinite(data):
        missing.append(place or "the result")
        return None
    if isinstance(data, Mapping):
        return {key: _finite(value, f"{place}.{key}" if place else str(key), missing) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value, f"{place}.{i}" if place else str(i), missing) for i, value in enumerate(data)]
    return data


@contextmanager
def own_warnings_printed() -> Iterator[None]:
    """Have Python warnings of edgekit's own printed as all its others are, without a place in the code."""
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
            if issubclass(category, EdgekitWarning):
                print_warnings([str(message)])
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


@contextmanager
def told_by_edgekit() -> Iterator[list[str]]:
    """Collects what Python programs are told by `warnings`, for whoever prints it."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EdgekitWarning)
        yield told
        told += [str(warning.message) for warning in caught if issubclass(warning.category, EdgekitWarning)]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows under their keys, in aligned columns; no line for no rows."""
    if not rows:
        return []
    cells = [
        list(rows[0]),
        *([f"{value:g}" if isinstance(value, float) else printable(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
