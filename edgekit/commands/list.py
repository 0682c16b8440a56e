"""`edgekit list`: the levels, recipes, devices, tasks and sets of labels that can be named."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, table
from edgekit.errors import EdgekitError

Rows = list[dict[str, Any]]


# Only in rows of what cannot be read, which does not keep the others from being listed.
ERROR = "error"


def levels() -> Rows:
    """Every quantization level, how it stores weights, and what a proof lets it lose."""
    from edgekit.artifacts.gates import LIMITS
    from edgekit.artifacts.levels import LEVELS
    from edgekit.formats import FORMATS

    return [
        {
            "name": level.name,
            "format": level.format,
            "codec": level.codec,
            "activations": FORMATS[level.format].activations(level),
            **{name: getattr(level.limits, name) for name in LIMITS if name.startswith("loss")},
            "mixture": ", ".join(f"{kind} {codec}" for kind, codec in level.mixture.items()),
        }
        for level in LEVELS.values()
    ]


def recipes() -> Rows:
    """Every model and its variants."""
    from edgekit.artifacts import find
    from edgekit.artifacts.recipes import recipe

    def row(name: str) -> dict[str, Any]:
        stated = recipe(name)
        levels = ", ".join(stated.variant)
        return {"name": stated.name, "title": stated.title, "levels": levels, "source": stated.source}

    return [_row_or_error(row, name) for name in find.names("exports")]


def devices() -> Rows:
    """Every device profile."""
    from edgekit.artifacts import find
    from edgekit.machine.devices import device

    fields = {"name", "title", "memory_gb", "model_memory_gb", "cores", "bandwidth_gb_s", "gpu_memory_gb", "platform"}
    return [_row_or_error(lambda name: device(name).model_dump(include=fields), name) for name in find.names("devices")]


def tasks() -> Rows:
    """Every benchmark task."""
    from edgekit.artifacts import find
    from edgekit.bench.tasks import task

    def row(name: str) -> dict[str, Any]:
        stated = task(name)
        return {"name": stated.name, "kind": stated.kind, "dataset": stated.dataset}

    return [_row_or_error(row, name) for name in find.names("benchmarks")]


def labels() -> Rows:
    """Every set of labels that `classify --labels` knows by name."""
    from edgekit.artifacts import find
    from edgekit.classifier.labels import described

    def row(name: str) -> dict[str, Any]:
        stated, title = described(name)
        prompts = sum(map(len, stated.prompts))
        return {"name": name, "title": title, "labels": len(stated.labels), "prompts": prompts, "scores": stated.scores}

    return [_row_or_error(row, name) for name in find.names("benchmarks/labels")]


def _row_or_error(row: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    try:
        return row(name)
    except EdgekitError as error:
        return {"name": name, ERROR: error.message}


KINDS: Mapping[str, Callable[[], Rows]] = {rows.__name__: rows for rows in (levels, recipes, devices, tasks, labels)}


def add_options(parser: ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("kind", choices=tuple(KINDS))


def run(options: Namespace) -> int:
    """Print the rows; 1 where a file could not be read."""
    rows = KINDS[options.kind]()
    wrong = [row for row in rows if ERROR in row]
    if options.json:
        print_json(rows)
    else:
        print_lines(table([row for row in rows if ERROR not in row]))
        print_lines(f"{row['name']}  {ERROR}: {row[ERROR]}" for row in wrong)
    return 1 if wrong else 0


VERB = Verb("list what can be named", ("list levels", "list recipes --json"), run, add_options, order=118)
