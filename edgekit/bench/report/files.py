"""The files of a benchmark: results.json for edgekit report, figures for programs, reports for people."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.documents import is_file, is_folder
from edgekit.artifacts.files import make_folder, replacing
from edgekit.bench.decision import Question
from edgekit.bench.document import FILE_NAME, MARK, as_json
from edgekit.bench.report.lines import as_csv, as_json_lines
from edgekit.bench.report.markdown import markdown
from edgekit.bench.report.page import page
from edgekit.bench.results import Results
from edgekit.bench.runs import Earlier
from edgekit.errors import UsageError

NAMES = (FILE_NAME, "report.md", "report.html", "figures.csv", "figures.jsonl")
_BEGINNING = re.compile(rb'\s*\{\s*"%s"' % MARK.encode())


def printed(results: Results, output: str, question: Question | None = None, earlier: Earlier | None = None) -> str:
    """The results as `md`, `csv`, `jsonl`, `html` or `json`, with a line's end."""
    match output:
        case "md":
            return markdown(results, question, earlier) + "\n"
        case "csv":
            return as_csv(results)
        case "jsonl":
            return as_json_lines(results)
        case "html":
            return page(results, question, earlier) + "\n"
        case _:
            return as_json(results, question, earlier)


def write(
    results: Results, folder: Path, question: Question | None = None, earlier: Earlier | None = None
) -> None:
    """Write results.json, report.md, report.html, figures.csv and figures.jsonl into a folder, which is made.

    All are written before one of them takes its place, results.json as the last: where one cannot be, none has changed.

    Raises:
        UsageError: the folder holds somebody else's file of such a name.
    """
    check_place(folder)
    texts = {
        FILE_NAME: as_json(results, question, earlier),
        "report.md": markdown(results, question, earlier) + "\n",
        "report.html": page(results, question, earlier),
        "figures.csv": as_csv(results),
        "figures.jsonl": as_json_lines(results),
    }
    with file_errors(folder):
        make_folder(folder)
        with ExitStack() as places:  # which are left in the opposite order
            for name, text in texts.items():
                places.enter_context(replacing(folder / name)).write_bytes(text.encode())


def check_place(folder: Path) -> None:
    """See that results can be written into a folder, before anything is measured for it.

    Raises:
        UsageError: it is a file, or holds a file of such a name that no results of edgekit stand beside.
    """
    if folder.exists() and not is_folder(folder):
        raise UsageError(f"{folder}: is no folder", remedy="name another one: --to DIR")
    if not is_folder(folder):
        return
    there = [name for name in NAMES if os.path.lexists(folder / name)]
    foreign = [name for name in there if not is_file(folder / name)] or ([] if _own(folder) else there)
    if foreign:
        raise UsageError(
            f"{folder}: its {', '.join(foreign)} would be overwritten, and no results of edgekit stand beside",
            remedy="name another folder: --to DIR",
        )


def _own(folder: Path) -> bool:
    """Whether a folder's results.json was written by edgekit, or was about to be when it was killed."""
    path = folder / FILE_NAME
    if not is_file(path):
        return any(folder.glob(f".{FILE_NAME}.*.partial"))
    with file_errors(folder), path.open("rb") as stream:
        return _BEGINNING.match(stream.read(100)) is not None
