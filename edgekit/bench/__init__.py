"""Measure artifacts against the full-precision model: accuracy, fidelity, latency, memory, size."""

from __future__ import annotations

from edgekit.bench.document import as_json, read, typed
from edgekit.bench.report.files import check_place, printed, write
from edgekit.bench.report.markdown import markdown
from edgekit.bench.results import Results
from edgekit.bench.runner import Sweep, bench

__all__ = ["Results", "Sweep", "as_json", "bench", "check_place", "markdown", "printed", "read", "typed", "write"]
