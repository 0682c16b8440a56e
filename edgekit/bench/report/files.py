"""The files of a benchmark: results.json for edgekit report, figures for programs, reports for people."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import make_folder, write_atomically
from edgekit.bench.decision import Question
from edgekit.bench.document import FILE_NAME, as_json
from edgekit.bench.report.lines import as_csv, as_json_lines
from edgekit.bench.report.markdown import markdown
from edgekit.bench.report.page import page
from edgekit.bench.results import Results
from edgekit.bench.runs import Earlier


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
    """Write results.json, report.md, report.html, figures.csv and figures.jsonl into a folder, which is made."""
    with file_errors(folder):
        make_folder(folder)
        write_atomically(folder / FILE_NAME, as_json(results, question, earlier))
        write_atomically(folder / "report.md", markdown(results, question, earlier) + "\n")
        write_atomically(folder / "report.html", page(results, question, earlier))
        write_atomically(folder / "figures.csv", as_csv(results))
        write_atomically(folder / "figures.jsonl", as_json_lines(results))
