"""Measure artifacts against the full-precision model: accuracy, fidelity, latency, memory, size."""

from __future__ import annotations

from edgekit.bench.report.content import markdown
from edgekit.bench.report.files import as_json, write
from edgekit.bench.results import Results
from edgekit.bench.runner import bench

__all__ = ["Results", "as_json", "bench", "markdown", "write"]
