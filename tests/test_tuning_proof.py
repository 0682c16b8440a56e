"""What tuning chooses gives what the proven default gives: an option that is fast and wrong is shown, never chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.cli import main
from edgekit.machine import tried
from edgekit.metrics import relative_error
from edgekit.progress import Progress
from edgekit.runtime import open_model, tuning_results
from edgekit.runtime.backends import runtimes, usable
from edgekit.runtime.llama import self_test
from edgekit.runtime.opening import prepare
from edgekit.runtime.tuning_results import DecoderResult, EncoderResult, TuningResult
from edgekit.tuning import measure, tune


@pytest.fixture(autouse=True)
def nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tried.folder()  # what was tried stays known: each test would have to try it anew
    monkeypatch.setattr(tried, "folder", lambda: known)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(tuning_results.VARIABLE, raising=False)
    monkeypatch.delenv(self_test.VARIABLE, raising=False)
    monkeypatch.setattr(tune, "busy_cores", lambda: 0.0)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions below


def colour_blind_encoder(job: Any) -> Iterator[dict[str, Any]]:
    """OpenVINO takes no time, and exchanges red and blue."""
    if job["backend"] != "onnxruntime":
        pixels = np.load(job["input"])
        np.save(job["input"], pixels[..., ::-1])
    for line in measure.encoder(job):
        yield {**line, "seconds": line["seconds"] if job["backend"] == "onnxruntime" else 1e-9}
    if job["backend"] != "onnxruntime":
        np.save(job["input"], pixels)


def careless_decoder(job: Any) -> Iterator[dict[str, Any]]:
    """Weights as they lie in the file are the fastest, and one layer of noise comes on top of their logits."""
    for line in measure.decoder(job):
        if not job["extra_buffers"]:
            path = Path(job["outputs"]) / f"{line['threads']}.npy"
            logits = np.load(path)
            np.save(path, logits + np.random.default_rng(0).normal(0, 0.2, logits.shape).astype(np.float32))
            line |= {"prefill_tokens_per_s": 1e9, "decode_tokens_per_s": 1e9}
        yield line


def tuned(folder: Path, level: str, role: str) -> TuningResult:
    found = tune.tune_part(prepare(folder, level), role, fresh=True, progress=Progress()).result
    assert found is not None
    return found


def test_a_runtime_that_exchanges_colours_is_not_chosen(
    medsiglip_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which grey pictures cannot show."""
    if len(usable("onnx", "encoder")) < 2:
        pytest.skip("needs a second runtime")
    monkeypatch.setattr(measure, "encoder", colour_blind_encoder)
    found = tuned(medsiglip_artifact, "fp32", "image_encoder")
    assert isinstance(found, EncoderResult)
    assert found.fastest == "onnxruntime"
    for run in found.runs[1:]:
        assert not run.counts
        assert "does not count" in str(run)
        assert run.worst_error is not None
        assert run.worst_error > tuning_results.MOST_ERROR_AT_WORST
    model = open_model(medsiglip_artifact, "fp32")
    assert model.runtimes["image_encoder"].startswith("ONNX Runtime")
    model.close()


def test_right_runtimes_and_layouts_lie_within_the_limits(
    medsiglip_artifact: Path, medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tuned(medsiglip_artifact, "fp32", "image_encoder")
    assert isinstance(encoder, EncoderResult)
    assert all(run.counts for run in encoder.runs)
    assert len(encoder.runs) == len(usable("onnx", "encoder")) <= len(runtimes())
    decoder = tuned(medgemma_artifact, "Q4_0", "decoder")
    assert isinstance(decoder, DecoderResult)
    assert all(run.counts for run in decoder.runs)
    assert any(not run.extra_buffers for run in decoder.runs)
    assert main(["inspect", str(medgemma_artifact)]) == 0
    assert "to the proven default" in capsys.readouterr().out


def test_a_layout_whose_logits_differ_is_not_chosen(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = prepare(medgemma_artifact, "Q4_0")
    if len(opening.backends("decoder")[0].options.layouts()) < 2:  # type: ignore[union-attr]
        pytest.skip("needs weights that can be laid out")
    monkeypatch.setattr(measure, "decoder", careless_decoder)
    found = tuned(medgemma_artifact, "Q4_0", "decoder")
    assert isinstance(found, DecoderResult)
    assert found.fastest is not None
    assert found.fastest.extra_buffers
    wrong = [run for run in found.runs if not run.extra_buffers]
    assert wrong
    assert not any(run.counts for run in wrong)
    assert "does not count" in str(wrong[0])


def test_a_relative_error_sees_length_and_direction() -> None:
    expected = np.array([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [3.0, 4.0]])
    actual = np.array([[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [1.0, 0.0], [np.nan, 4.0]])
    assert relative_error(expected, actual).tolist() == [0, 1, 2, np.inf, np.inf]
