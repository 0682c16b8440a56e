"""What a benchmark prints for programs: a line for each figure, called as llama-bench calls it where it is the same.

A speed of tokens is a test as llama-bench has them: `n_prompt` tokens read at once, or `n_gen` single steps behind
`n_depth`; `avg_ts` and `stddev_ts` are over the samples, tokens a second, and `avg_ns` and `stddev_ns` nanoseconds of
the whole test. Where llama-bench has no such figure its columns are empty, and `task`, `figure`, `value`, `low`,
`high` and `n` say what was found.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any, Literal, get_args

from edgekit.bench.document import as_json
from edgekit.bench.records import Measurement, Record, plain
from edgekit.bench.report.markdown import markdown
from edgekit.bench.results import Results

Output = Literal["md", "csv", "json", "jsonl"]
OUTPUTS: tuple[Output, ...] = get_args(Output)

_BENCH = ("build_commit", "cpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params")
_TEST = ("n_threads", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts")
FIELDS = (*_BENCH, *_TEST, "row", "kind", "task", "figure", "value", "low", "high", "n", "disturbed", "error")


def printed(results: Results, output: Output) -> str:
    """The results in one of the forms."""
    if output == "md":
        return markdown(results)
    if output == "json":
        return as_json(results)
    lines = [line for record in results.records for line in _lines(record)]
    if output == "jsonl":
        return "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in plain(line).items()} for line in lines)
    return text.getvalue()


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    types = record.tensor_types or {}
    about = {
        "build_commit": record.environment.commit,
        "cpu_info": record.environment.cpu,
        "model_type": " ".join(filter(None, (record.model, record.level))),
        "model_size": record.bytes,
        "model_n_params": sum(types.values()) or None,
        "row": record.row,
        "kind": record.kind,
    }
    for measured in record.measurements:
        base = {**dict.fromkeys(FIELDS), **about, "task": measured.task, "error": measured.error}
        base |= {"backends": _backends(record, measured), "n_threads": measured.details.get("threads")}
        base["disturbed"] = measured.details.get("disturbed")
        if measured.error:
            yield base
        for figure, estimate in measured.metrics.items():
            told = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
            yield {**base, "figure": figure, **told, **_test(measured, figure)}


def _backends(record: Record, measured: Measurement) -> str:
    return "; ".join(dict.fromkeys(measured.details.get("runtimes", {}).values())) or ", ".join(record.formats)


def _test(measured: Measurement, figure: str) -> dict[str, Any]:
    """llama-bench's columns of a speed of tokens; nothing for other figures."""
    found = measured.details
    prompt, steps = found.get("prompt_tokens"), found.get("steps")
    if figure == "prefill_tokens_per_s":
        seconds = [second for one in found["prompt_s"] for second in one]
        return {"n_prompt": prompt, "n_gen": 0, "n_depth": 0, **_samples(found, prompt or 0, seconds)}
    if figure == "decode_tokens_per_s":
        # A sample is a round's steps together, as llama-bench times all that it generates.
        rounds = [one for one in found["step_ms"] if one]
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
