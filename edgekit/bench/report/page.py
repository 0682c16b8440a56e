"""The report as one HTML file without scripts, readable in light and dark, nothing loaded from elsewhere.

`page.html.jinja` is the page, with every text escaped; a table that is wider than the page is moved in its own frame.
"""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgekit.bench.decision import Question
from edgekit.bench.report.content import report
from edgekit.bench.results import Results
from edgekit.bench.runs import Earlier
from edgekit.terminal import printable


def page(results: Results, question: Question | None = None, earlier: Earlier | None = None) -> str:
    """The whole page.

    Args:
        question: what a level must keep, and where it must run.
        earlier: a run to hold this one against.
    """
    loader = PackageLoader(__package__, ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown)
    pages.filters["unbroken"] = _unbroken
    told = report(results, question, earlier)
    sections = [(section, [(type(block).__name__, block) for block in section.blocks]) for section in told]
    return pages.get_template("page.html.jinja").render(sections=sections)


def _shown(value: object) -> object:
    """What a page says: text without what no page may hold, markup as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _unbroken(cell: str) -> str:
    """A cell in which no line ends inside an interval."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
