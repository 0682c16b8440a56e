"""ONNX files in plain ONNX Runtime against transformers in float32."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from proofs import Unproven

from edgekit.artifacts import manifest
from edgekit.artifacts.levels import LEVELS as LEVEL_ROWS
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.formats.onnx.codecs import CODECS
from edgekit.formats.onnx.writer import suffix
from edgekit.full_precision.bounded import open_full_precision
from edgekit.inputs import phantoms
from edgekit.machine.cpu import cpu
from edgekit.runtime import open_model
from edgekit.runtime.onnx import session as ort

# Beside each level the least cosine to transformers with the original weights: what quantization may cost here.
LEVELS = {
    "fp32": 0.99999,
    "fp16": 0.99999,
    "int8": 0.99,
    "int8_dynamic": 0.99,
    "q4_m": 0.97,
    "q4": 0.96,
    "q4_128": 0.95,
}
FILES = [f"{stem}{suffix(LEVEL_ROWS[level])}.onnx" for level in LEVELS for stem in ("vision_model", "text_model")]


@pytest.fixture(scope="module")
def exported(medsiglip_levels: Unproven) -> Path:
    return medsiglip_levels.folder


@pytest.mark.parametrize("name", FILES)
def test_files_are_valid_and_say_nothing_of_this_machine(exported: Path, name: str) -> None:
    path = exported / "onnx" / name
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}
    beyond_the_standard = {node.op_type for node in model.graph.node if node.domain}
    assert beyond_the_standard <= {"MultiHeadAttention", "MatMulNBits"}
    embeds = "image_embeds" if name.startswith("vision") else "text_embeds"
    assert [output.name for output in model.graph.output] == ["last_hidden_state", "pooler_output", embeds]
    assert {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"} == {
        f"{name}_data"
    }
    text = path.read_bytes()
    for trace in (b"site-packages", b"/home", b"/root", sys.prefix.encode()):
        assert trace not in text


@pytest.mark.parametrize("name", ["vision_model_int8.onnx", "text_model_int8.onnx"])
def test_int8_is_static_qdq_with_signed_weights(exported: Path, name: str) -> None:
    model = onnx.load(exported / "onnx" / name)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") > 0
    assert "DynamicQuantizeLinear" not in kinds
    types = {t.name: t.data_type for t in model.graph.initializer}
    weights = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in types]
    assert len(weights) >= 20
    assert {types[weight] for weight in weights} == {onnx.TensorProto.INT8}


def test_the_manifest_counts_what_the_files_hold(exported: Path) -> None:
    one_byte_and_half_a_byte = {"int8": 1, "int8_32": 1, "int4_32": 0.5, "int4_128": 0.5}
    for part in manifest.read(exported).parts:
        stored = onnx.load(exported / part.files[0].path).graph.initializer
        found = sum(
            int(np.prod(t.dims)) for t in stored if t.name.endswith((".int8", ".int8_32", ".int4_32", ".int4_128"))
        )
        said = sum(count * one_byte_and_half_a_byte.get(kind, 0) for kind, count in part.tensor_types.items())
        # Rows of 160 and 336 weights, in blocks of 128, are filled up with zeros.
        assert said <= found <= said * (1.6 if part.level == "q4_128" else 1.1), (part.role, part.level)
        assert part.bits_per_weight == pytest.approx(sum(f.bytes for f in part.files) * 8 / part.weights, abs=1e-3)


@pytest.mark.parametrize("level", ["int8_dynamic", "q4_m", "q4", "q4_128"])
def test_weights_in_the_file_are_those_that_the_proof_assumes(
    exported: Path, medsiglip_source: Path, level: str
) -> None:
    """Read by the onnx package and unpacked by the operators' definitions, not by our own code."""
    checkpoint = open_checkpoint(medsiglip_source)
    path = exported / "onnx" / f"vision_model{suffix(LEVEL_ROWS[level])}.onnx"
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    checked = 0
    for name, array in stored.items():
        matrix, _, codec = name.rpartition(".")
        if codec not in CODECS:
            continue
        weights, scale = checkpoint.read(checkpoint.tensors[matrix]), stored[f"{matrix}.scale"]
        if codec == "int8":
            found = (array * scale).T
        else:
            bits = 4 if codec.startswith("int4") else 8
            if bits == 4:
                array = np.stack([array % 16, array // 16], axis=-1).reshape(*scale.shape, -1)
            found = ((array.astype(np.float32) - 2 ** (bits - 1)) * scale[..., None]).reshape(len(weights), -1)
        found = found[:, : weights.shape[1]]
        assert np.allclose(found, CODECS[codec].roundtrip(weights), atol=1e-6), name
        error = np.linalg.norm(found - weights) / np.linalg.norm(weights)
        assert error < (0.01 if codec.startswith("int8") else 0.15), name
        checked += 1
    assert checked >= 20


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size(exported: Path, batch: int) -> None:
    session = onnxruntime.InferenceSession(exported / "onnx" / "vision_model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(batch, 3, 112, 112)).astype(np.float32)
    hidden, pooled, unit = session.run(None, {"pixel_values": pixels})
    assert hidden.shape == (batch, 64, 160)
    assert pooled.shape == (batch, 160)
    assert np.allclose(unit, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)


def test_each_level_of_the_format_has_a_least_cosine() -> None:
    assert set(LEVELS) == {name for name, row in LEVEL_ROWS.items() if row.format == "onnx"}


@pytest.mark.parametrize(("level", "least"), LEVELS.items())
def test_embeddings_agree_with_transformers(exported: Path, medsiglip_source: Path, level: str, least: float) -> None:
    images = [phantom.image for phantom in phantoms.generate(515, 6)]
    texts = ["a chest x-ray", "Brain MRI: glioma!", "", "pleural effusion " * 40]
    reference, model = open_full_precision(medsiglip_source), open_model(exported, level)
    for expected, found in (
        (reference.embed_image(images), model.embed_image(images)),
        (reference.embed_text(texts), model.embed_text(texts)),
    ):
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert (expected * found).sum(axis=1).min() > least
    prompts = ["normal lungs", ["a nodule", "chest x-ray: nodule"]]
    assert np.allclose(
        reference.classify(images, prompts),
        model.classify(images, prompts),
        atol=1e-4 if level in ("fp32", "fp16") else 0.2,
    )
    model.close()


def test_opening_needs_no_torch(exported: Path) -> None:
    """What a clinic installs has neither torch nor transformers."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path; import numpy as np; from edgekit.runtime import open_model\n"
        f"model = open_model(Path({str(exported)!r}), 'int8')\n"
        "print(model.classify([np.zeros((90, 70), np.uint8)], ['a', 'b']).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(1, 2)"


def test_int8_means_the_same_on_a_cpu_without_vnni(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ONNX Runtime must make signed weights unsigned, or its sums overflow; results must not depend on it."""
    images = [phantom.image for phantom in phantoms.generate(515, 2)]
    texts = ["a chest x-ray", "brain mri"]
    found = []
    for flags in (cpu().flags, ("avx2",)):
        monkeypatch.setattr(ort, "cpu", lambda flags=flags: dataclasses.replace(cpu(), flags=flags))
        model = open_model(exported, "int8", runtime="default")
        found.append(np.concatenate([model.embed_image(images), model.embed_text(texts)]))
        model.close()
    assert (found[0] * found[1]).sum(axis=1).min() > 0.99999
