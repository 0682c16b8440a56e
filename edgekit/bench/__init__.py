"""Measure artifacts against the full-precision model: accuracy, fidelity, latency, memory, size."""

from __future__ import annotations

from edgekit.bench.results import Results, controls_show_damage
from edgekit.bench.runner import bench

__all__ = ["Results", "bench", "controls_show_damage"]
