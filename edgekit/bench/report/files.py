"""The files of a benchmark: results.json for programs, report.md and report.html for people."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import make_folder, write_atomically
from edgekit.bench.records import plain
from edgekit.bench.report.markdown import markdown
from edgekit.bench.report.page import page
from edgekit.bench.results import Results, damage
from edgekit.terminal import json_text


def as_json(results: Results) -> str:
    """All records, phases and notes as one JSON document."""
    data = {
        "records": results.records,
        "phases": results.phases,
        "notes": results.notes,
        "controls_show_damage": results.shows_damage,
        "controls": damage(results.records),
    }
    return json_text(plain(data), indent=1) + "\n"


def write(results: Results, folder: Path) -> None:
    """Write results.json, report.md and report.html into a folder, which is made."""
    with file_errors(folder):
        make_folder(folder)
        write_atomically(folder / "results.json", as_json(results))
        write_atomically(folder / "report.md", markdown(results) + "\n")
        write_atomically(folder / "report.html", page(results))
