"""GGUF files against llama.cpp's tokenizer, and the gguf package's independent reader and codecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.artifacts.levels import level
from edgekit.artifacts.recipes import recipe
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import CheckpointError
from edgekit.formats import codec
from edgekit.formats.gguf.library import library
from edgekit.inputs.passage import sentences
from edgekit.inputs.text import load_tokenizer
from edgekit.prove import publish as artifact


@pytest.fixture(scope="module")
def exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "artifact"
    variants = recipe("reference-medgemma").variant
    levels = [name for name, parts in variants.items() if {level(one).format for one in parts.values()} == {"gguf"}]
    artifact.export(medgemma_source, folder, levels=levels, prove=False)
    return folder


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", ["BF16", "F16", "Q8_0", "Q4_0"])
@given(arrays(np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32)))
@settings(max_examples=50, deadline=None)
def test_codecs_equal_ggufs_numpy_implementation(name: str, rows: Any) -> None:
    expected = quants.quantize(rows, gguf.GGMLQuantizationType[name])
    # By value: for a block of negative zeros the two may differ in the sign of the scale, which is zero too.
    assert np.array_equal(codec(name).roundtrip(rows), quants.dequantize(expected, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize(
    ("name", "share", "halves"),
    [
        ("F32", 0, 0),
        ("F16", 2**-11, 1),
        ("BF16", 2**-8, 0),
        ("Q8_0", 1 / 200, 127),
        ("Q6_K", 1 / 25, 32 * 128),  # a level times its 16 weights' scale of 8 bits
        ("Q4_0", 1 / 7.9, 8),
        ("int8", 1 / 250, 0),
    ],
)
@given(arrays(np.float32, (4, 256), elements=st.floats(-10, 10, width=16)))
@example(np.full((4, 256), 2**-13, np.float32))  # Q6_K's F16 number for it, 2**-25, becomes 0
@settings(max_examples=50, deadline=None)
def test_no_weight_moves_further_than_its_types_step(name: str, share: float, halves: int, rows: Any) -> None:
    """The largest error as a share of the row's largest weight, from each type's number of levels.

    A weight is up to `halves` times an F16 number. Below 2**-14 these are 2**-24 apart, so rounding moves each by up to
    2**-25, however small it is, and the weight by `halves` times as much.
    """
    error = np.abs(codec(name).roundtrip(rows) - rows).max(axis=1)
    assert (error <= share * np.abs(rows).max(axis=1) + halves * 2**-25).all()


def test_a_weight_beyond_f16_is_refused() -> None:
    with pytest.raises(CheckpointError, match="65,504"):
        codec("F16").roundtrip(np.full((1, 32), 1e5, np.float32))


def test_bf16_keeps_nan_and_infinity() -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    back = codec("BF16").roundtrip(rows)
    assert np.isnan(back[0, 0])
    assert np.array_equal(back[0, 1:], rows[0, 1:])


def test_an_mlp_width_that_does_not_divide_is_filled_with_zeros(exported: Path, medgemma_source: Path) -> None:
    """The vision tower's MLP is 336 wide, as awkward as so400m's 4304: no large matrix may stay in F16."""
    path = next(exported.glob("mmproj-*-Q8_0.gguf"))
    stored = tensors(path)
    checkpoint = open_checkpoint(medgemma_source)
    prefix = "vision_tower.vision_model.encoder.layers.1.mlp."
    for name, ours, zeros in (
        ("fc1.weight", "v.blk.1.ffn_up.weight", ((0, 16), (0, 0))),
        ("fc1.bias", "v.blk.1.ffn_up.bias", ((0, 16),)),
        ("fc2.weight", "v.blk.1.ffn_down.weight", ((0, 0), (0, 16))),
        ("fc2.bias", "v.blk.1.ffn_down.bias", ((0, 0),)),
    ):
        expected = np.pad(checkpoint.read(checkpoint.tensors[prefix + name]), zeros)
        kind = stored[ours].tensor_type
        assert kind.name == ("Q8_0" if name.endswith("weight") else "F32")
        written = quants.dequantize(stored[ours].data, kind)
        assert written.shape == expected.shape
        assert np.abs(written - expected).max() <= np.abs(expected).max() / 200
    assert gguf.GGUFReader(path).fields["clip.vision.feed_forward_length"].contents() == 352
    assert tensors(next(exported.glob("mmproj-*-BF16.gguf")))["v.blk.1.ffn_up.weight"].shape[1] == 336


def test_the_manifest_counts_what_is_stored_as_what(exported: Path) -> None:
    from edgekit.artifacts import manifest

    for part in manifest.read(exported).parts:
        path = exported / part.files[0].path
        counted: dict[str, int] = {}
        for tensor in tensors(path).values():
            counted[tensor.tensor_type.name] = counted.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
        assert set(part.tensor_types) == set(counted)
        padded = sum(counted.values()) - part.weights
        assert padded == (0 if part.role == "decoder" or part.level in ("BF16", "F16") else 4 * 16 * (160 * 2 + 1))
        assert part.bits_per_weight == pytest.approx(path.stat().st_size * 8 / part.weights, abs=1e-3)


def test_a_quantized_projection_stays_f16(exported: Path) -> None:
    """llama.cpp would return NaN for every embedding."""
    for path in exported.glob("mmproj-*.gguf"):
        assert tensors(path)["mm.input_projection.weight"].tensor_type.name == "F16"


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
