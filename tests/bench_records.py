"""Records with figures that a test chooses, as a run of the benchmark leaves them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgekit.bench.environment import Environment
from edgekit.bench.records import Kind, Measurement, Record
from edgekit.bench.results import Results
from edgekit.metrics import Comparison, Estimate

HERE = Environment("f" * 64, "A CPU", "x86_64", ("avx2",), 2, 8_000_000_000, {"edgekit": "0.1.0"}, "c" * 40, "d" * 64)
THERE = replace(HERE, fingerprint="e" * 64, cpu="A small CPU", cores=4)
DATA = {
    "name": "phantoms", "title": "phantoms", "citation": "somebody 2026", "license": "CC0", "note": "drawn",
    "sha256": "0",
}  # fmt: skip


def compared(low: float, value: float, high: float, **more: Any) -> Comparison:
    """A difference to full precision, as shares."""
    return Comparison(Estimate(value, low, high, 240), margin=0.01, **more)


def answers(value: float, paired: Comparison | None = None, task: str = "finding-phantom") -> Measurement:
    """A task whose headline is an accuracy."""
    details = {
        "prompt": "What is it?", "parser": "first-label", "max_tokens": 24, "truncated_share": 0.04,
        "majority_baseline": {"label": "nodule", "accuracy": 0.125, "balanced": 0.125},
    }  # fmt: skip
    figures = {"accuracy": Estimate(value, value - 0.05, value + 0.05, 240)}
    return Measurement("a", task, "finding", "Findings", "accuracy", "t", DATA, 240, figures, paired, None, details)


def logits(kl: float, task: str = "fidelity-decoder", p99: float | None = None) -> Measurement:
    """A task that compares logits, with a floor of noise."""
    figures = {"kl": Estimate(kl, 0.5 * kl, 2 * kl, 2300), "top1": Estimate(0.98, 0.97, 0.99, 2300)}
    if p99 is not None:
        figures["kl_p99"] = Estimate(p99, 0.5 * p99, 2 * p99, 2300)
    details = {"positions": 2300, "positions_after_image": 700, "kl_quantiles": {"p90": 2 * kl, "p99": None}}
    return Measurement("l", task, "decoder-fidelity", "Logits", "kl", "t", DATA, 32, figures, None, 1e-5, details)


def times(first_token_ms: float, peak_bytes: float, error: str | None = None) -> Measurement:
    """Medians over rounds."""
    figures = {
        "first_token_ms": Estimate(first_token_ms, 0.9 * first_token_ms, 1.1 * first_token_ms, 5),
        "decode_tokens_per_s": Estimate(9.0, 8.0, 10.0, 5),
        "peak_memory_bytes": Estimate(peak_bytes, peak_bytes, peak_bytes, 5),
    }
    details = {"rounds": 5}
    found = {} if error else figures
    return Measurement("t", "latency", "latency", "Times", "", "t", DATA, 4, found, None, None, details, 1.0, error)


def row(name: str, *measurements: Measurement, kind: Kind = "variant", size: int = 10**9, **more: Any) -> Record:
    """One row of a table."""
    control = {"role": "decoder", "bits": 2} if kind == "control" else None
    level, parts = (name, {"decoder": name}) if kind == "variant" else (None, None)
    made = Record(
        "A model", "r", None, "s", name, kind, level, ("gguf",), parts, size, 4.5, None, control, measurements, HERE
    )
    return replace(made, **more)


def results(*records: Record) -> Results:
    """A run's."""
    return Results(records, {"latency": 61.2}, ("a note",), "edgekit bench ./medgemma")
