"""GGUF files against llama.cpp's own quantizer and tokenizer, and the gguf package's independent reader and codecs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit import artifact, codecs
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import CheckpointError
from edgekit.inputs.passage import sentences
from edgekit.inputs.prompt import load_tokenizer
from edgekit.levels import LEVELS
from edgekit.runtime.llamacpp import library


@pytest.fixture(scope="module")
def exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "artifact"
    artifact.export(medgemma_source, folder, prove=False)
    return folder


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("level", ["Q8_0", "Q4_0"])
def test_bytes_equal_llama_cpps_own_quantizer(exported: Path, tmp_path: Path, level: str) -> None:
    """No importance matrix: the same types and the same bytes for every tensor, mixtures included."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = LEVELS[level].file_type
    theirs = tmp_path / "theirs.gguf"
    source = next(exported.glob("medgemma-*-BF16.gguf"))
    assert lib.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(params)) == 0
    expected, ours = tensors(theirs), tensors(next(exported.glob(f"medgemma-*-{level}.gguf")))
    assert set(ours) == set(expected)
    for name, tensor in ours.items():
        assert tensor.tensor_type == expected[name].tensor_type, name
        assert np.array_equal(tensor.data, expected[name].data), name


@pytest.mark.parametrize("name", ["BF16", "F16", "Q8_0", "Q4_0"])
@given(arrays(np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32)))
@settings(max_examples=50, deadline=None)
def test_codecs_equal_ggufs_numpy_implementation(name: str, rows: Any) -> None:
    expected = quants.quantize(rows, gguf.GGMLQuantizationType[name])
    # By value: for a block of negative zeros the two may differ in the sign of the scale, which is zero too.
    assert np.array_equal(codecs.roundtrip(rows, name), quants.dequantize(expected, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("F32", 0),
        ("F16", 2**-11),
        ("BF16", 2**-8),
        ("Q8_0", 1 / 200),
        ("Q6_K", 1 / 25),
        ("Q4_0", 1 / 7.9),
        ("int8", 1 / 250),
    ],
)
@given(arrays(np.float32, (4, 256), elements=st.floats(-10, 10, width=16)))
@settings(max_examples=50, deadline=None)
def test_no_weight_moves_further_than_its_types_step(name: str, share: float, rows: Any) -> None:
    """The largest error as a share of the row's largest weight, from each type's number of levels."""
    error = np.abs(codecs.roundtrip(rows, name) - rows).max(axis=1)
    assert (error <= share * np.abs(rows).max(axis=1) + 1e-6).all()


def test_a_weight_beyond_f16_is_refused() -> None:
    with pytest.raises(CheckpointError, match="65,504"):
        codecs.encode(np.full((1, 32), 1e5, np.float32), "F16")


def test_bf16_keeps_nan_and_infinity() -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    back = codecs.roundtrip(rows, "BF16")
    assert np.isnan(back[0, 0])
    assert np.array_equal(back[0, 1:], rows[0, 1:])


def test_a_width_that_does_not_divide_falls_back_and_says_so(exported: Path) -> None:
    """The second MLP matrix of the vision tower has 336 columns, as awkward as so400m's 4304."""
    from edgekit import manifest

    path = next(exported.glob("mmproj-*-Q8_0.gguf"))
    stored = tensors(path)
    assert stored["v.blk.0.ffn_down.weight"].tensor_type.name == "F16"
    assert stored["v.blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"
    assert stored["mm.input_projection.weight"].tensor_type.name == "F16"
    (part,) = [p for p in manifest.read(exported).parts if p.role == "vision" and p.level == "Q8_0"]
    counted = {kind.name: 0 for kind in {tensor.tensor_type for tensor in stored.values()}}
    for tensor in stored.values():
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    assert part.tensor_types == counted
    assert part.weights == sum(counted.values())
    assert part.bits_per_weight == pytest.approx(path.stat().st_size * 8 / part.weights, abs=1e-3)


def test_norms_are_stored_with_their_one(exported: Path, medgemma_source: Path) -> None:
    path = next(exported.glob("medgemma-*-BF16.gguf"))
    stored = tensors(path)["blk.3.attn_norm.weight"].data
    checkpoint = open_checkpoint(medgemma_source)
    weights = checkpoint.read(checkpoint.tensors["language_model.model.layers.3.input_layernorm.weight"])
    assert np.array_equal(stored, weights + 1)


def test_header_states_what_llama_cpp_cannot_guess(exported: Path) -> None:
    fields = gguf.GGUFReader(next(exported.glob("medgemma-*-Q4_0.gguf"))).fields
    assert fields["general.architecture"].contents() == "gemma3"
    assert fields["general.file_type"].contents() == 2
    assert fields["gemma3.rope.scaling.factor"].contents() == 8.0
    assert fields["gemma3.rope.freq_base"].contents() == 1e6
    assert fields["gemma3.rope.freq_base_swa"].contents() == 1e4
    assert fields["gemma3.attention.sliding_window"].contents() == 64
    assert fields["gemma3.attention.key_length"].contents() == 64
    assert "general.license" in fields
    assert "<start_of_turn>" in fields["tokenizer.chat_template"].contents()


def test_llama_cpp_tokenizes_as_the_checkpoint_does(exported: Path, medgemma_source: Path) -> None:
    lib = library()
    tokenizer = load_tokenizer(medgemma_source / "tokenizer.json")
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(next(exported.glob("medgemma-*-BF16.gguf"))).encode(), params)
    vocab = lib.llama_model_get_vocab(model)
    texts = [
        *sentences(),
        "  two  spaces\n\n\nand lines\t",
        "12.5 mg/kg \u00b5g \u2265 37 \u00b0C \U0001fac1",
        "na\u00efve \u4e2d\u6587",
    ]
    try:
        for text in texts:
            room = (lib.llama_token * 4096)()
            data = text.encode()
            count = lib.llama_tokenize(vocab, data, len(data), room, 4096, False, False)
            assert list(room[:count]) == tokenizer.encode(text, add_special_tokens=False).ids, text
    finally:
        lib.llama_model_free(model)
