"""llama-bench's columns, for the figures that mean the same: speeds of tokens.

A speed of tokens is a test as llama-bench has them: `n_prompt` tokens read at once, or `n_gen` single steps behind
`n_depth`; `avg_ts` and `stddev_ts` are over the samples, tokens a second, and `avg_ns` and `stddev_ns` nanoseconds of
the whole test. Other figures leave these columns empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from edgekit.bench.records import Measurement, Record

ABOUT = ("build_commit", "cpu_info", "backends", "model_type", "model_size", "model_n_params", "n_threads")
TEST = ("n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts")
SAMPLES = ("samples_ns", "samples_ts")  # lists, which CSV has no place for


def about(record: Record, measured: Measurement) -> dict[str, Any]:
    """What was measured, by what, on what."""
    return {
        "build_commit": record.environment.commit,
        "cpu_info": record.environment.cpu,
        "backends": "; ".join(dict.fromkeys(measured.details.get("runtimes", {}).values()))
        or ", ".join(record.formats),
        "model_type": " ".join(filter(None, (record.model, record.level))),
        "model_size": record.bytes,
        "model_n_params": sum((record.tensor_types or {}).values()) or None,
        "n_threads": measured.details.get("threads"),
    }


def test(measured: Measurement, figure: str) -> dict[str, Any]:
    """The columns of a speed of tokens; nothing for other figures."""
    found = measured.details
    prompt, steps = found.get("prompt_tokens"), found.get("steps")
    if figure == "prefill_tokens_per_s":
        seconds = [second for one in found.get("prompt_s", ()) for second in one]
        return {"n_prompt": prompt, "n_gen": 0, "n_depth": 0, **_samples(found, prompt or 0, seconds)}
    if figure == "decode_tokens_per_s":
        # A sample is a round's steps together, as llama-bench times all that it generates.
        rounds = [one for one in found.get("step_ms", ()) if one]
        seconds = [sum(one) / 1000 * (steps or 0) / len(one) for one in rounds]
        return {"n_prompt": 0, "n_gen": steps, "n_depth": prompt, **_samples(found, steps or 0, seconds)}
    return {}


def _samples(found: dict[str, Any], tokens: int, seconds: Sequence[float]) -> dict[str, Any]:
    if not seconds:
        return {}
    speeds = [tokens / second for second in seconds]
    return {
        "test_time": found["started"][0],
        "avg_ns": round(1e9 * mean(seconds)),
        "stddev_ns": round(1e9 * stdev(seconds)) if len(seconds) > 1 else 0,
        "avg_ts": mean(speeds),
        "stddev_ts": stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ns": [round(1e9 * second) for second in seconds],
        "samples_ts": speeds,
    }
