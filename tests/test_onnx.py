"""ONNX files in plain ONNX Runtime against transformers in float32."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit import artifact
from edgekit.reference import phantoms
from edgekit.runtime import open_model
from edgekit.runtime.torch_reference import open_reference

FILES = ("vision_model.onnx", "vision_model_int8.onnx", "text_model.onnx", "text_model_int8.onnx")


@pytest.fixture(scope="module")
def exported(medsiglip_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "artifact"
    artifact.export(medsiglip_source, folder, prove=False)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_files_are_valid_and_standard(exported: Path, name: str) -> None:
    path = exported / "onnx" / name
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    assert [output.name for output in model.graph.output] == ["last_hidden_state", "pooler_output"]
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
    assert len(weights) >= 24
    assert {types[weight] for weight in weights} == {onnx.TensorProto.INT8}


def test_the_manifest_counts_what_the_files_hold(exported: Path) -> None:
    from edgekit import manifest

    for part in manifest.read(exported).parts:
        stored = onnx.load(exported / part.files[0].path).graph.initializer
        int8 = sum(int(np.prod(t.dims)) for t in stored if t.data_type == onnx.TensorProto.INT8)
        assert int8 == part.tensor_types.get("int8", 0), part.role
        assert part.bits_per_weight == pytest.approx(sum(f.bytes for f in part.files) * 8 / part.weights, abs=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size(exported: Path, batch: int) -> None:
    session = onnxruntime.InferenceSession(exported / "onnx" / "vision_model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(batch, 3, 112, 112)).astype(np.float32)
    hidden, pooled = session.run(None, {"pixel_values": pixels})
    assert hidden.shape == (batch, 64, 160)
    assert pooled.shape == (batch, 160)


@pytest.mark.parametrize(("level", "least"), [("fp32", 0.99999), ("int8", 0.99)])
def test_embeddings_agree_with_transformers(exported: Path, medsiglip_source: Path, level: str, least: float) -> None:
    images = [phantom.image for phantom in phantoms.generate(515, 6)]
    texts = ["a chest x-ray", "Brain MRI: glioma!", "", "pleural effusion " * 40]
    reference, model = open_reference(medsiglip_source), open_model(exported, level)
    for expected, found in (
        (reference.embed_image(images), model.embed_image(images)),
        (reference.embed_text(texts), model.embed_text(texts)),
    ):
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert (expected * found).sum(axis=1).min() > least
    prompts = ["normal lungs", ["a nodule", "chest x-ray: nodule"]]
    assert np.allclose(
        reference.classify(images, prompts), model.classify(images, prompts), atol=1e-4 if level == "fp32" else 0.1
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
