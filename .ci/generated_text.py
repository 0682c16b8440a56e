"""Parts of the READMEs that follow from the code: written between markers, `<!-- NAME -->` and `<!-- /NAME -->`.

    make readme

writes them anew; the tests compare.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import bench
from edgekit.artifacts.documents import read_json
from edgekit.bench.document import MARK
from edgekit.commands import list as listing
from edgekit.commands import verbs
from edgekit.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def commands() -> str:
    """Every verb: what must be typed, and its line of help."""
    rows = []
    for name, verb in verbs().items():
        parser = ArgumentParser(prog=f"edgekit {name}", add_help=False)
        verb.add_options(parser)
        rows.append({"command": f"`{required(parser.format_usage())}`", "does": verb.summary})
    return markdown(rows)


def levels() -> str:
    """Every level, as `edgekit list levels` shows it."""
    return markdown([{key: value or "-" for key, value in row.items()} for row in listing.levels()])


def recipes() -> str:
    """Every model, with the levels of its recipe."""
    shown = ("name", "title", "levels")
    return markdown([{key: row[key] for key in shown} for row in listing.recipes()])


def devices() -> str:
    """Every device profile."""
    return markdown(listing.devices())


def tasks() -> str:
    """Every benchmark task."""
    return markdown(listing.tasks())


def measured() -> str:
    """The report of each committed run of `edgekit bench`, below its file's name and the command that made it."""
    parts = []
    for path in records():
        results = bench.read(path)
        head = f"## [{path.name}](results/{path.name})"
        typed = f"    {results.command}" if results.command else "The record does not say which command made it."
        beside = path.with_suffix(".md")
        said = f"What it was made from: [{beside.name}](results/{beside.name})\n\n" if beside.is_file() else ""
        parts.append(f"{head}\n\n{said}{typed}\n\n{bench.markdown(results, level=3)}")
    return "\n\n".join(parts) or "No run of `edgekit bench` is committed yet."


def other_records() -> str:
    """What else was measured, by scripts of its own: each text with its heading and the data beside it."""
    own, rows = {path.stem for path in records()}, []
    for path in sorted(RESULTS.glob("*.md")):
        if path.stem not in own:
            heading = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            data = path.with_suffix(".json")
            beside = f"[{data.name}](results/{data.name})" if data.is_file() else "-"
            rows.append({"what": heading, "text": f"[{path.name}](results/{path.name})", "data": beside})
    return markdown(rows)


def records() -> list[Path]:
    """The committed documents of `edgekit bench`; other records lie beside them."""
    every = sorted(RESULTS.glob("*.json"))
    return [path for path in every if MARK in read_json(path, InputError, most_bytes=1 << 28, most_entries=1 << 23)]


# File -> the parts of it that are generated; a part's markers have its function's name.
PARTS: Mapping[str, tuple[Callable[[], str], ...]] = {
    "README.md": (commands,),
    "exports/README.md": (levels, recipes),
    "devices/README.md": (devices,),
    "benchmarks/README.md": (tasks,),
    "benchmarks/RESULTS.md": (measured, other_records),
}


def generated(file: str) -> str:
    """The whole text of a file with its parts as they must be.

    Raises:
        ValueError: a part's markers are missing.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for part in PARTS[file]:
        start, end = f"<!-- {part.__name__} -->\n", f"<!-- /{part.__name__} -->\n"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{file}: no {start.strip()} and {end.strip()}")
        text = f"{before}{start}\n{part()}\n\n{end}{after}"
    return text


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table; a bar inside a cell is escaped."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def required(usage: str) -> str:
    """What must be typed: a usage without its optional parts, on one line."""
    usage = " ".join(usage.removeprefix("usage: ").split())
    while (shorter := re.sub(r" ?\[[^\[\]]*\]", "", usage)) != usage:
        usage = shorter
    return usage


def main() -> None:
    """Write every part anew."""
    for file in PARTS:
        (ROOT / file).write_text(generated(file), encoding="utf-8")


if __name__ == "__main__":
    main()
