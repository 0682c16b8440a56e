"""Files that others made: proven against a checkpoint, or told apart from it, difference by difference.

The files are llama.cpp's own: `llama_model_quantize` makes them of a BF16 file that llama.cpp's converter would have
written byte by byte (tests/test_gguf_peer.py), with mixtures and importance matrices that edgekit knows nothing of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import changed, exchanged, quantized
from gguf_files import rewrite
from gguf_peers import CONVERSIONS, PEER_PACKAGES, convert
from material import Copy, edit_json

from edgekit import cli
from edgekit.artifacts import manifest
from edgekit.artifacts.differences import Difference, DifferencesError
from edgekit.artifacts.manifest import FOREIGN, Manifest
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.commands.support import artifact_text
from edgekit.errors import ArtifactError, CheckpointError, EdgekitError, UsageError
from edgekit.export.adopt import adopt
from edgekit.formats.gguf.header import read_header
from edgekit.prove import publish
from edgekit.runtime.opening import prepare

# What others make: llama.cpp's file type, a mixture of their own, with an importance matrix or not.
FILES: dict[str, tuple[str, dict[str, str], bool]] = {
    "Q5_1": ("Q5_1", {}, False),
    "IQ4_XS, a mixture, an importance matrix": ("IQ4_XS", {r"blk\.0\.ffn_down": "Q6_K", "attn_v": "Q8_0"}, True),
}
MORE_FILES: dict[str, tuple[str, dict[str, str], bool]] = {
    "F32": ("F32", {}, False),
    "F16": ("F16", {}, False),
    "Q8_0": ("Q8_0", {}, False),
    "Q4_1": ("Q4_1", {}, False),
    "Q4_K_S, layers apart": ("Q4_K_S", {r"blk\.[0-2]\.": "Q5_K", r"blk\.3\.": "Q3_K"}, True),
    "Q3_K_L": ("Q3_K_L", {}, True),
    "Q2_K": ("Q2_K", {}, True),
    "IQ3_S": ("IQ3_S", {}, True),
    "IQ4_NL": ("IQ4_NL", {}, True),
}


@pytest.fixture(scope="module")
def decoder(medgemma_artifact: Path) -> Path:
    (path,) = medgemma_artifact.glob("medgemma-*-BF16.gguf")
    return path


@pytest.fixture(scope="module")
def projector(medgemma_artifact: Path) -> Path:
    (path,) = medgemma_artifact.glob("mmproj-*-Q8_0.gguf")
    return path


@pytest.fixture(scope="module")
def theirs(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder as most people download one."""
    return quantized(decoder, tmp_path_factory.mktemp("theirs") / "theirs-Q4_K_M.gguf", "Q4_K_M")


@pytest.fixture(scope="module")
def adopted(theirs: Path, projector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adopt(theirs, tmp_path_factory.mktemp("adopted") / "artifact", vision=projector).folder


@pytest.fixture(scope="module")
def proven(adopted: Path, medgemma_source: Path) -> Manifest:
    return publish.prove(adopted, medgemma_source)


def test_a_file_of_others_is_proven(proven: Manifest, adopted: Path, medgemma_source: Path) -> None:
    assert manifest.read(adopted) == proven
    assert proven.foreign
    assert proven.proven_against is not None
    assert proven.proven_against.sha256 == open_checkpoint(medgemma_source).sha256
    for part in proven.parts:
        assert part.parity
        assert part.parity.audit
        assert part.parity.loss["mean"] != part.parity.wiring["mean"]
    label = f"made by others; proven against {medgemma_source.name}, SHA-256 {proven.proven_against.sha256[:16]}..."
    assert f"foreign   {label}" in artifact_text.artifact_lines(adopted, proven)
    assert label in prepare(adopted).warnings
    assert not any("not measured" in warning for warning in prepare(adopted).warnings)
    readme = (adopted / "README.md").read_text(encoding="utf-8")
    assert "proven against" in readme
    assert FOREIGN not in readme


@pytest.mark.parametrize("name", FILES)
def test_mixtures_and_importance_matrices_of_their_own(
    decoder: Path, medgemma_source: Path, tmp_path: Path, name: str
) -> None:
    """A decoder alone: its pictures are left out, which is said."""
    kind, mixture, important = FILES[name]
    file = quantized(decoder, tmp_path / "theirs.gguf", kind, mixture=mixture, important=important)
    folder = adopt(file, tmp_path / "artifact").folder
    (part,) = publish.prove(folder, medgemma_source).parts
    assert part.parity
    assert {t.type for t in read_header(file).tensors.values()} == set(part.tensor_types)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_FILES)
def test_further_types(decoder: Path, medgemma_source: Path, tmp_path: Path, name: str) -> None:
    kind, mixture, important = MORE_FILES[name]
    file = quantized(decoder, tmp_path / "theirs.gguf", kind, mixture=mixture, important=important)
    (part,) = publish.prove(adopt(file, tmp_path / "artifact").folder, medgemma_source).parts
    assert part.parity


# ---------------------------------------------------------------- mistakes

# Key of the header -> the wrong value.
CONSTANTS: dict[str, Any] = {
    "gemma3.rope.scaling.type": ...,
    "gemma3.rope.scaling.factor": ...,
    "gemma3.rope.freq_base": 5e5,
    "gemma3.rope.freq_base_swa": 2e4,
    "gemma3.attention.sliding_window": 512,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-5,
    "gemma3.context_length": 8192,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_space_prefix": True,
}
# Tensor -> what is wrong with its numbers.
TENSORS: dict[str, Callable[[Any], Any]] = {
    "token_embd.weight": lambda rows: rows * np.float32(1.02),
    "blk.0.attn_output.weight": np.zeros_like,
    "blk.1.ffn_up.weight": lambda rows: rows * np.float32(1.05),
    "blk.1.attn_k.weight": lambda rows: rows[[1, 0, *range(2, len(rows))]],
    "blk.3.attn_norm.weight": lambda rows: rows - np.float32(1),
    "blk.5.ffn_gate.weight": lambda rows: -rows,
}
EXCHANGED = ("blk.2.attn_q_norm.weight", "blk.2.attn_k_norm.weight"), ("blk.4.ffn_gate.weight", "blk.4.ffn_up.weight")
SEEN: dict[str, Any] = {
    "clip.vision.image_mean": [0.4, 0.5, 0.5],
    "clip.vision.image_std": [0.5, 0.5, 0.25],
    "clip.vision.attention.layer_norm_epsilon": 1e-5,
}


def told_apart(file: Path, source: Path, folder: Path, projector: Path | None = None) -> tuple[Difference, ...]:
    """All that differs between files and a checkpoint, after adopting them."""
    adopt(file, folder, vision=projector)
    before = manifest.read(folder)
    with pytest.raises(DifferencesError) as caught:
        publish.prove(folder, source)
    assert manifest.read(folder) == before
    for one in caught.value.differences:
        assert one.is_note or str(one) in caught.value.items
    return caught.value.differences


@pytest.fixture(scope="module")
def mistaken(
    decoder: Path, projector: Path, medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Difference, ...]:
    """Of files with all these mistakes at once."""
    folder = tmp_path_factory.mktemp("mistakes")
    right = quantized(decoder, folder / "right.gguf", "Q8_0", mixture={"token_embd": "F16"})
    file = changed(right, folder / "wrong.gguf", TENSORS, CONSTANTS)
    for pair in EXCHANGED:
        exchanged(file, *pair)
    seen = {"v.blk.0.ln1.weight": lambda rows: rows * np.float32(1.01), "v.blk.1.attn_q.bias": np.zeros_like}
    wrong = changed(projector, folder / "mmproj.gguf", seen, SEEN)
    return told_apart(file, medgemma_source, folder / "artifact", wrong)


@pytest.mark.parametrize("key", [*CONSTANTS, *SEEN])
def test_each_wrong_constant_is_named_with_what_it_does(mistaken: tuple[Difference, ...], key: str) -> None:
    (found,) = (one for one in mistaken if one.name == key)
    assert (found.kind, found.is_note) == ("constant", False)
    assert found.found != found.expected
    assert found.meaning


def test_the_missing_factor_says_how_far(mistaken: tuple[Difference, ...]) -> None:
    (found,) = (one for one in mistaken if one.name == "gemma3.rope.scaling.factor")
    assert found.expected == "8"
    assert "8 times" in found.meaning


@pytest.mark.parametrize(
    "name", [*TENSORS, *(name for pair in EXCHANGED for name in pair), "v.blk.0.ln1.weight", "v.blk.1.attn_q.bias"]
)
def test_each_wrong_tensor_is_named(mistaken: tuple[Difference, ...], name: str) -> None:
    assert [(one.kind, one.is_note) for one in mistaken if one.name == name] == [("tensor", False)]


def test_what_is_right_is_not_named(mistaken: tuple[Difference, ...]) -> None:
    wrong = {*TENSORS, *CONSTANTS, *SEEN, *(name for pair in EXCHANGED for name in pair)}
    wrong |= {"v.blk.0.ln1.weight", "v.blk.1.attn_q.bias"}
    assert {one.name for one in mistaken if one.kind in ("tensor", "constant") and not one.is_note} == wrong


VOCABULARIES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "scores": (lambda path: {"tokenizer.ggml.scores": [-s for s in numbers(path, "scores")]}, "tokenizer.ggml.scores"),
    "end": (lambda path: {"tokenizer.ggml.eos_token_id": 5}, "tokenizer.ggml.eos_token_id"),
    "begin": (lambda path: {"tokenizer.ggml.bos_token_id": 5}, "tokenizer.ggml.bos_token_id"),
    "types": (lambda path: {"tokenizer.ggml.token_type": [1] * len(numbers(path, "scores"))}, "token_type|NORMAL"),
    "template": (lambda path: {"tokenizer.chat_template": CHATML}, "chat_template|template"),
}
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def numbers(path: Path, name: str) -> list[float]:
    """An array of a file's vocabulary."""
    return list(read_header(path).fields[f"tokenizer.ggml.{name}"].tolist())
