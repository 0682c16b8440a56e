"""`edgekit list`: the levels, recipes, devices and tasks that can be named."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, table

Rows = list[dict[str, Any]]


def levels() -> Rows:
    """Every quantization level and how it stores weights."""
    from edgekit.artifacts.levels import LEVELS
    from edgekit.formats import FORMATS

    return [
        {
            "name": level.name,
            "format": level.format,
            "codec": level.codec,
            "activations": FORMATS[level.format].activations(level),
            "mixture": ", ".join(f"{kind} {codec}" for kind, codec in level.mixture.items()),
        }
        for level in LEVELS.values()
    ]


def recipes() -> Rows:
    """Every model and its variants."""
    from edgekit.artifacts import find
    from edgekit.artifacts.recipes import recipe

    return [
        {"name": r.name, "title": r.title, "levels": ", ".join(r.variant), "source": r.source}
        for r in map(recipe, find.names("exports"))
    ]


def devices() -> Rows:
    """Every device profile."""
    from edgekit.artifacts import find
    from edgekit.machine.devices import device

    fields = {"name", "title", "memory_gb", "model_memory_gb", "cores", "gpu_memory_gb"}
    return [device(name).model_dump(include=fields) for name in find.names("devices")]


def tasks() -> Rows:
    """Every benchmark task."""
    from edgekit.artifacts import find
    from edgekit.bench.tasks import task

    return [{"name": t.name, "kind": t.kind, "dataset": t.dataset} for t in map(task, find.names("benchmarks"))]


KINDS: Mapping[str, Callable[[], Rows]] = {rows.__name__: rows for rows in (levels, recipes, devices, tasks)}


def add_options(parser: ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("kind", choices=tuple(KINDS))


def run(options: Namespace) -> int:
    """Print the rows."""
    rows = KINDS[options.kind]()
    if options.json:
        print_json(rows)
    else:
        print_lines(table(rows))
    return 0


VERB = Verb("list what can be named", ("list levels", "list recipes --json"), run, add_options, order=110)
