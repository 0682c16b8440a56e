"""Known wrong exports must fail their wiring proof at every level and leave nothing behind; right ones must pass.

Each mistake is made where the format can express it: in tensors, in the header, in the runtime's segments, and else in
the reference, which comes to the same comparison. All of them have shipped in somebody's converter.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import artifact, families
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import GateError
from edgekit.export import gguf as gguf_export
from edgekit.export import job
from edgekit.export import onnx as onnx_export
from edgekit.families import medgemma
from edgekit.inputs import prompt
from edgekit.runtime import compose, llamacpp, torch_reference
from edgekit.runtime.base import Embeddings, Tokens

GGUF_LEVELS = ("BF16", "Q8_0", "Q4_0")
ONNX_LEVELS = ("fp32", "int8")


def refused(source: Path, folder: Path, level: str, match: str) -> None:
    """Export, expect a refusal that says this, and find no trace of it."""
    with pytest.raises(GateError, match=match):
        artifact.export(source, folder / "artifact", levels=[level])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_right_gguf_export_is_proven(medgemma_source: Path, tmp_path: Path, level: str) -> None:
    done = artifact.export(medgemma_source, tmp_path / "artifact", levels=[level])
    parity = {part.role: part.parity for part in done.added}
    assert parity["decoder"] is not None
    assert parity["vision"] is not None
    assert parity["decoder"].positions >= 256
    assert 0 <= parity["decoder"].wiring["mean"] < 1e-3
    assert parity["vision"].wiring["worst"] > 0.9999


def test_loss_grows_as_bits_shrink(medgemma_source: Path, tmp_path: Path) -> None:
    done = artifact.export(medgemma_source, tmp_path / "artifact")
    loss = {part.level: part.parity.loss["mean"] for part in done.added if part.role == "decoder" and part.parity}
    assert loss["BF16"] < loss["Q8_0"] < loss["Q4_0"]


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_causal_image_mask_is_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "Embeddings", functools.partial(Embeddings, bidirectional=False))
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_norms_without_their_one_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = medgemma._norm
    monkeypatch.setattr(medgemma, "_norm", lambda *args: dataclasses.replace(right(*args), add_one=False))
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_global_layers_without_their_scale_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gguf_export._HEADERS["gemma3"]

    def wrong(writer: Any, plan: Any) -> None:
        text = plan.config.text_config.model_copy(update={"rope_factor": 1.0})
        right(writer, dataclasses.replace(plan, config=plan.config.model_copy(update={"text_config": text})))

    monkeypatch.setitem(gguf_export._HEADERS, "gemma3", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_local_layers_with_the_global_scale_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp hard-wires the local scale, so the two sides are exchanged: the reference scales its local layers."""
    right = torch_reference._BUILDERS["medgemma"]

    def wrong(config: Any) -> Any:
        model = right(config)
        rotary = model.model.language_model.rotary_emb
        rotary.sliding_attention_inv_freq /= 8
        return model

    monkeypatch.setitem(torch_reference._BUILDERS, "medgemma", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_unscaled_embeddings_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp scales token ids itself, but takes embeddings as they are."""
    checkpoint = open_checkpoint(medgemma_source)
    table = checkpoint.read(checkpoint.tensors["language_model.model.embed_tokens.weight"])
    right = llamacpp.LlamaDecoder._decode

    def wrong(self: Any, items: Any, wanted: Any, *, causal: bool) -> Any:
        return right(self, table[items] if items.ndim == 1 else items, wanted, causal=causal)

    monkeypatch.setattr(llamacpp.LlamaDecoder, "_decode", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_images_without_their_line_breaks_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = prompt.expand_images
    monkeypatch.setattr(
        prompt, "expand_images", lambda text, n: right(text, n).replace("\n\n<start_of_image>", "<start_of_image>")
    )
    refused(medgemma_source, tmp_path, level, "prompt differs")


@pytest.mark.parametrize(
    ("family", "level"),
    [("medgemma", level) for level in GGUF_LEVELS] + [("medsiglip", level) for level in ONNX_LEVELS],
)
def test_a_wrong_resize_is_refused(
    medgemma_source: Path,
    medsiglip_source: Path,
    tmp_path: Path,
    family: str,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = families.FAMILIES[family]
    swapped = {"bilinear": "bicubic", "bicubic": "bilinear"}

    def wrong(checkpoint: Any, config: Any) -> Any:
        found = right.preprocessing(checkpoint, config)
        return found.model_copy(update={"resample": swapped[found.resample]})

    monkeypatch.setitem(families.FAMILIES, family, dataclasses.replace(right, preprocessing=wrong))  # type: ignore[arg-type]
    refused(medgemma_source if family == "medgemma" else medsiglip_source, tmp_path, level, "pixels differ")


@pytest.mark.parametrize("level", ONNX_LEVELS)
def test_right_onnx_export_is_proven(medsiglip_source: Path, tmp_path: Path, level: str) -> None:
    done = artifact.export(medsiglip_source, tmp_path / "artifact", levels=[level])
    assert {part.role for part in done.added} == {"image_encoder", "text_encoder"}
    for part in done.added:
        assert part.parity is not None
        assert part.parity.wiring["worst"] > (0.9999 if level == "fp32" else 0.99)


@pytest.mark.parametrize("level", ONNX_LEVELS)
@pytest.mark.parametrize("mistake", ["all positions", "one position", "their mean"])
def test_last_hidden_state_for_pooler_output_is_refused(
    medsiglip_source: Path, tmp_path: Path, level: str, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_export._Encoder.of
    reduce = {"all positions": lambda x: x, "one position": lambda x: x[:, -1], "their mean": lambda x: x.mean(1)}[
        mistake
    ]

    def wrong(model: Any, role: str, th: Any) -> Any:
        tower = right(model, role, th)
        forward = tower.forward

        def mistaken(batch: Any) -> Any:
            hidden, _ = forward(batch)
            return hidden, reduce(hidden)

        tower.forward = mistaken
        return tower

    monkeypatch.setattr(onnx_export, "_TRACED", {})  # a graph traced before the mistake would hide it
    monkeypatch.setattr(onnx_export._Encoder, "of", wrong)
    refused(medsiglip_source, tmp_path, level, "wiring")


def test_nan_logits_are_refused(medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = llamacpp.LlamaDecoder._logits

    def wrong(self: Any, index: int) -> Any:
        return np.where(right(self, index) > 0, np.nan, 0)

    monkeypatch.setattr(llamacpp.LlamaDecoder, "_logits", wrong)
    refused(medgemma_source, tmp_path, "BF16", "wiring")


def test_a_recipes_loss_limit_refuses(medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = job.choose

    def strict(*args: Any) -> Any:
        chosen = right(*args)
        return chosen.model_copy(update={"gates": chosen.gates.model_copy(update={"loss_kl_at": {"Q4_0": 1e-9}})})

    monkeypatch.setattr(job, "choose", strict)
    refused(medgemma_source, tmp_path, "Q4_0", "loss: mean KL")


def test_tokens_and_embeddings_count_alike() -> None:
    assert len(Tokens((1, 2, 3))) == 3
    assert len(Embeddings(np.zeros((16, 4), np.float32), "x")) == 16
