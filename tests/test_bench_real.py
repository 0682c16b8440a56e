"""The benchmark in real worker processes on the shipped models: every figure that a row must have is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.bench import Sweep, bench, write
from edgekit.bench.controls import LADDER
from edgekit.bench.results import Results

ROOT = Path(__file__).parent.parent


def _short(folder: Path, *names: str) -> list[str]:
    """The shipped tasks with few items."""
    small = {"limit": 6, "chunks": 4, "decode_tokens": 4}
    for name in names:
        lines = (ROOT / "benchmarks" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        kept = [f"{key} = {small[key]}" if (key := line.split(" =")[0]) in small else line for line in lines]
        (folder / f"{name}.toml").write_text("\n".join(kept), encoding="utf-8")
    return [str(folder / f"{name}.toml") for name in names]


def _figures(results: Results, row: str) -> set[str]:
    (record,) = [record for record in results.records if record.row == row]
    return {name for measured in record.measurements for name in measured.metrics}


def test_chat_model(medgemma_artifact: Path, medgemma_source: Path, tmp_path: Path) -> None:
    tasks = _short(tmp_path, "finding-phantom", "fidelity-text", "fidelity-decoder", "fidelity-encoder", "latency")
    sweep = Sweep([medgemma_artifact], ["Q4_0"], [medgemma_source], tasks, rounds=1, controls=())
    results = bench(sweep, progress=False)
    assert results.errors == ()
    times = {"load_s", "first_token_ms", "decode_tokens_per_s", "image_encode_ms", "peak_memory_bytes"}
    distances = {"kl", "top1", "perplexity", "kl_answers", "answer_flips", "cosine_image"}
    assert _figures(results, "Q4_0") >= times | distances | {"accuracy"}
    reference, q4 = results.records
    assert reference.metric("kl").value < 1e-9  # type: ignore[union-attr]
    assert 1e-6 < q4.metric("kl").value < 0.5  # type: ignore[union-attr]
    for name in ("fidelity-text", "fidelity-decoder"):
        measured = q4.of(name)
        assert measured is not None
        assert measured.noise_floor is not None
        assert 1e-7 < measured.noise_floor < 0.1, name
    assert q4.metric("cosine_image").value > 0.999  # type: ignore[union-attr]
    assert q4.bits_per_weight is not None
    assert 4 < q4.bits_per_weight < 8
    assert q4.metric("peak_memory_bytes").value < reference.metric("peak_memory_bytes").value  # type: ignore[union-attr]
    write(results, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["records"]) == 2


def test_embedding_model_with_its_control(medsiglip_artifact: Path, medsiglip_source: Path, tmp_path: Path) -> None:
    tasks = _short(tmp_path, "labels-phantom", "fidelity-encoder")
    ladder = LADDER[-1:]  # each rung is a process that loads torch
    sweep = Sweep([medsiglip_artifact], ["fp32"], [medsiglip_source], tasks, rounds=1, controls=ladder)
    results = bench(sweep, progress=False)
    assert results.errors == ()
    assert _figures(results, "fp32") >= {"accuracy", "cosine_image", "cosine_text"}
    reference, fp32, control = results.records
    assert reference.metric("cosine_image").value == pytest.approx(1, abs=1e-6)  # type: ignore[union-attr]
    assert control.control is not None
    assert control.control["role"] == "image_encoder"
    assert control.metric("cosine_image").value < fp32.metric("cosine_image").value  # type: ignore[union-attr]
    assert control.metric("cosine_text").value == pytest.approx(1, abs=1e-6)  # type: ignore[union-attr]
