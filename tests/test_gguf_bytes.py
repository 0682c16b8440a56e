"""Every level's mixture against llama.cpp's own quantizer: the same type and the same bytes for every tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_peers import LLAMA_LEVELS, Shape, assert_same_tensors, checkpoint, export, quantize

# What each model is for: a mixture counts in eighths and sixteenths of the layers, in query heads for each key/value
# head, and falls back where a row is no whole number of blocks.
MODELS = {
    "34 layers, as 4B": Shape(34),
    "48 layers": Shape(48),
    "62 layers, as 27B": Shape(62),
    "4 heads for each kv head": Shape(16, kv_heads=1),
    "rows of 320 and 336": Shape(7, hidden=320, mlp=336),
}

Exported = Callable[[str], Path]


@pytest.fixture(scope="module")
def exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every level of one model, made once: the folder that holds them."""
    made: dict[str, Path] = {}

    def export_once(model: str) -> Path:
        if model not in made:
            folder = tmp_path_factory.mktemp("bytes")
            shape = MODELS.get(model)
            source = checkpoint(medgemma_source, folder / "checkpoint", shape) if shape else medgemma_source
            made[model] = export(source, folder, {name: {"decoder": name, "vision": "BF16"} for name in LLAMA_LEVELS})
        return made[model]

    return export_once


def assert_equals_llama_cpp(folder: Path, scratch: Path, level: str) -> None:
    """Our file of a level against the one that llama.cpp's quantizer makes of our BF16 file."""
    assert_same_tensors(folder / f"narrow-{level}.gguf", quantize(folder / "narrow-BF16.gguf", scratch, level))
    scratch.unlink()


def test_every_promised_level_is_compared() -> None:
    assert set(LLAMA_LEVELS) >= {"BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"}


@pytest.mark.parametrize("level", LLAMA_LEVELS)
@pytest.mark.parametrize("model", ["reference", *MODELS])
def test_bytes_equal_llama_cpps_own_quantizer(exported: Exported, tmp_path: Path, model: str, level: str) -> None:
    assert_equals_llama_cpp(exported(model), tmp_path / "theirs.gguf", level)


@pytest.mark.slow
def test_a_slice_at_full_width_equals_llama_cpps_own(medgemma_source: Path, tmp_path: Path) -> None:
    """Seven of MedGemma 4B's layers, with rows enough for several slices of each matrix."""
    shape = Shape(7, hidden=2560, mlp=10240, heads=8, kv_heads=4, head_dim=256, every=8)
    source = checkpoint(medgemma_source, tmp_path / "checkpoint", shape)
    folder = export(source, tmp_path, {name: {"decoder": name, "vision": "BF16"} for name in LLAMA_LEVELS})
    for level in LLAMA_LEVELS:
        assert_equals_llama_cpp(folder, tmp_path / "theirs.gguf", level)
