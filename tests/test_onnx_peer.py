"""Our ONNX files beside optimum's own export and in other people's classes: optimum's ORTModels, Transformers.js.

Each needs an environment of its own, named by a variable, and is skipped without it:

    python3.11 -m venv /tmp/optimum && /tmp/optimum/bin/pip install torch==2.13.0 'transformers>=4.57,<4.58' \
        'optimum>=2,<2.2' 'optimum-onnx[onnxruntime]==0.1.0' pillow
    EDGEKIT_ONNX_PEER=/tmp/optimum/bin/python
    npm install --ignore-scripts --prefix /tmp/js @huggingface/transformers@4
    EDGEKIT_TRANSFORMERS_JS=/tmp/js
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from material import photo, read_json
from proofs import Unproven

from edgekit.artifacts import manifest
from edgekit.artifacts.levels import LEVELS
from edgekit.families.siglip.text import encode_siglip
from edgekit.formats.onnx.writer import suffix
from edgekit.inputs import phantoms
from edgekit.inputs.image import normalize, to_pixels
from edgekit.inputs.text import load_tokenizer
from edgekit.metrics import cosine
from edgekit.prove import publish as artifact

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
OPTIMUM = os.environ.get("EDGEKIT_ONNX_PEER", "")
TRANSFORMERS_JS = os.environ.get("EDGEKIT_TRANSFORMERS_JS", "")
needs_optimum = pytest.mark.skipif(not OPTIMUM, reason="EDGEKIT_ONNX_PEER names no Python that has optimum-onnx")
needs_js = pytest.mark.skipif(not TRANSFORMERS_JS, reason="EDGEKIT_TRANSFORMERS_JS names no folder of node_modules")

TEXTS = ("a chest x-ray", "Brain MRI: glioma!", "pleural effusion " * 40)

# The least cosine of an embedding to optimum's, which computes everything in float32.
LEAST = {
    "fp32": 0.999999,
    "fp16": 0.99999,
    "int8": 0.99,
    "int8_dynamic": 0.99,
    "q4": 0.98,
    "q4_m": 0.98,
    "q4_128": 0.95,
}

# optimum's class -> what it returns of our image and text encoder, or why it cannot.
CLASSES: dict[str, tuple[Any, Any]] = {
    "ORTModelForFeatureExtraction": (["last_hidden_state"], ["last_hidden_state"]),
    "ORTModelForCustomTasks": (
        ["image_embeds", "last_hidden_state", "pooler_output"],
        ["last_hidden_state", "pooler_output", "text_embeds"],
    ),
    # Both towers in one graph, as optimum exports them; ours are two, so that one can be had without the other.
    "ORTModelForZeroShotImageClassification": ("'input_ids'", "'pixel_values'"),
    # Heads that SigLIP does not have.
    "ORTModelForImageClassification": ("logits", "'pixel_values'"),
    "ORTModelForSemanticSegmentation": ("logits", "'pixel_values'"),
    "ORTModelForSequenceClassification": ("pixel_values", "logits"),
    "ORTModelForCausalLM": ("hidden_size", "hidden_size"),
}


@pytest.fixture(scope="module")
def exported(medsiglip_levels: Unproven) -> Path:
    return medsiglip_levels.folder


@pytest.fixture(scope="module")
def given(exported: Path) -> dict[str, Any]:
    """Pixels [n, 3, 112, 112] and ids [n, 64] by the names of the graphs' inputs."""
    found = manifest.read(exported)
    assert found.preprocessing is not None
    images = [*(phantom.image for phantom in phantoms.generate(616, 3)), photo(150, 90)]
    ids = encode_siglip(load_tokenizer(exported / "tokenizer.json"), TEXTS, 64, found.settings["pad_token_id"])
    return {"pixel_values": normalize(to_pixels(images, found.preprocessing), found.preprocessing), "input_ids": ids}


@pytest.fixture(scope="module")
def medgemma_exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("medgemma")
    recipe = folder / "fp32.toml"
    recipe.write_text(
        'extends = "reference-medgemma"\ndefault = "fp32"\n[variant.fp32]\ndecoder = "fp32"\nvision = "fp32"\n'
    )
    return artifact.export(medgemma_source, folder / "artifact", recipe_name=str(recipe), prove=False).folder


@pytest.fixture(scope="module")
def medgemma_given(medgemma_exported: Path) -> dict[str, Any]:
    preprocessing = manifest.read(medgemma_exported).preprocessing
    assert preprocessing is not None
    pixels = normalize(to_pixels([photo(150, 90)], preprocessing), preprocessing)
    return {"pixel_values": pixels, "input_ids": np.arange(10, 30, dtype=np.int64)[None]}


def run(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """All outputs of a graph, by name, from what it takes of `given`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {i.name: given[i.name] for i in session.get_inputs()}), strict=True))


def optimum(*arguments: str | Path) -> Any:
    command = [OPTIMUM, HERE / "optimum_peer.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def theirs(medsiglip_source: Path, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What optimum's own export of the same checkpoint answers."""
    folder = tmp_path_factory.mktemp("optimum")
    optimum("export", medsiglip_source, folder)
    return run(folder / "model.onnx", given)


@needs_optimum
@pytest.mark.parametrize("level", LEAST)
def test_embeddings_agree_with_optimums_export(
    exported: Path, given: dict[str, Any], theirs: dict[str, Any], level: str
) -> None:
    for stem, output in (("vision_model", "image_embeds"), ("text_model", "text_embeds")):
        found = run(exported / "onnx" / f"{stem}{suffix(LEVELS[level])}.onnx", given)
        assert cosine(found[output], theirs[output]).min() >= LEAST[level], stem
        # The embedding is the pooler's output and no mean of hidden states; a wrong one must not pass.
        wrong = found["last_hidden_state"].mean(axis=1)
        assert cosine(wrong, theirs[output]).min() < LEAST[level] - 0.01, stem


def test_every_level_is_compared() -> None:
    assert set(LEAST) == {name for name, level in LEVELS.items() if level.format == "onnx"}


@needs_optimum
def test_match_scores_agree_with_optimums_export(exported: Path, given: dict[str, Any], theirs: dict[str, Any]) -> None:
    settings = manifest.read(exported).settings
    image = run(exported / "onnx" / "vision_model.onnx", given)["image_embeds"]
    text = run(exported / "onnx" / "text_model.onnx", given)["text_embeds"]
    ours = image @ text.T * np.exp(settings["logit_scale"]) + settings["logit_bias"]
    assert np.allclose(ours, theirs["logits_per_image"], atol=1e-3)


@needs_optimum
def test_optimums_classes(exported: Path, given: dict[str, Any], tmp_path: Path) -> None:
    """Which load our files, which cannot, and that those that do return what ONNX Runtime returns."""
    np.savez(tmp_path / "inputs.npz", **given)
    found = optimum("load", exported, tmp_path / "inputs.npz", tmp_path / "answers.npz")
    answers = np.load(tmp_path / "answers.npz")
    direct = {path.name: run(path, given) for path in (exported / "onnx").glob("*.onnx")}
    for kind, (image, text) in CLASSES.items():
        for name, answer in found[kind].items():
            expected = text if name.startswith("text") else image
            if isinstance(expected, str):
                assert isinstance(answer, str), f"{kind} now loads {name}"
                assert expected in answer
                continue
            assert answer == expected, f"{kind} {name}"
            for output in expected:
                assert np.allclose(answers[f"{kind}/{name}/{output}"], direct[name][output], atol=1e-4)
    others = {kind for kind, files in found.items() if any(isinstance(answer, list) for answer in files.values())}
    assert others == {kind for kind, (image, _) in CLASSES.items() if isinstance(image, list)}


@needs_optimum
def test_optimums_classes_on_medgemma(medgemma_exported: Path, medgemma_given: dict[str, Any], tmp_path: Path) -> None:
    """The vision part and the embedding load, the decoder does not: no class of optimum's feeds it embeddings."""
    np.savez(tmp_path / "inputs.npz", **medgemma_given)
    found = optimum("load", medgemma_exported, tmp_path / "inputs.npz", tmp_path / "answers.npz")
    loaded = {
        (kind, name) for kind, files in found.items() for name, answer in files.items() if isinstance(answer, list)
    }
    assert loaded == {("ORTModelForCustomTasks", f"{stem}.onnx") for stem in ("vision_encoder", "embed_tokens")}
    answers, kind = np.load(tmp_path / "answers.npz"), "ORTModelForCustomTasks"
    for stem, output in (("vision_encoder", "image_features"), ("embed_tokens", "inputs_embeds")):
        direct = run(medgemma_exported / "onnx" / f"{stem}.onnx", medgemma_given)
        assert np.allclose(answers[f"{kind}/{stem}.onnx/{output}"], direct[output], atol=1e-4)
    assert "inputs_embeds is required" in found["ORTModelForCausalLM"]["decoder_model_merged.onnx"]


def transformers_js(folder: Path, runs: list[dict[str, Any]], tmp_path: Path) -> Any:
    """What Transformers.js answers, and how it reads TEXTS."""
    job, answer = tmp_path / "job.json", tmp_path / "answer.json"
    job.write_text(json.dumps({"root": str(folder.parent), "name": folder.name, "runs": runs, "texts": TEXTS}))
    command = ["node", HERE / "transformers_js.mjs", TRANSFORMERS_JS, job, answer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_json(answer)


def tensor(name: str, array: Any) -> dict[str, Any]:
    return {"name": name, "type": str(array.dtype), "dims": array.shape, "data": array.ravel().tolist()}


@needs_js
def test_transformers_js(exported: Path, given: dict[str, Any], tmp_path: Path) -> None:
    """Its classes find our files by `dtype`, or by name where it has no word for a level, and compute the same."""
    known = ("fp32", "fp16", "int8", "q4")
    cases, runs = [], []
    for kind, stem, role in (
        ("SiglipVisionModel", "vision_model", "pixel_values"),
        ("SiglipTextModel", "text_model", "input_ids"),
    ):
        one = given[role][:1]
        for level in LEAST:
            ending = suffix(LEVELS[level])
            named = {"dtype": "fp32", "model_file_name": f"{stem}{ending}"}
            options = {"dtype": level} if level in known else named
            runs.append({"kind": kind, "options": options, "inputs": [tensor(role, one)]})
            cases.append((f"{stem}{ending}.onnx", {role: one}))
    found = transformers_js(exported, runs, tmp_path)
    for (name, inputs), outputs in zip(cases, found["runs"], strict=True):
        assert "error" not in outputs, f"{name}: {outputs}"
        for output, expected in run(exported / "onnx" / name, inputs).items():
            theirs = np.asarray(outputs[output]["data"], np.float32).reshape(outputs[output]["dims"])
            assert cosine(theirs.reshape(1, -1), expected.reshape(1, -1))[0] > 0.99999, f"{name} {output}"
    ids = np.asarray(found["ids"])
    assert np.array_equal(ids[:-1], given["input_ids"][:-1]), "its tokenizer reads our files as we do"
    # But it cuts a text that is too long behind its last token, </s> with it, which SigLIP pools.
    assert np.array_equal(ids[-1, :-1], given["input_ids"][-1, :-1])


@needs_js
def test_transformers_js_on_medgemma(medgemma_exported: Path, medgemma_given: dict[str, Any], tmp_path: Path) -> None:
    """Its class finds and loads all three graphs and encodes images; it cannot tell our decoder where images are."""
    kind, options = "Gemma3ForConditionalGeneration", {"dtype": "fp32"}
    pixels, ids = (tensor(name, medgemma_given[name]) for name in ("pixel_values", "input_ids"))
    mask = tensor("attention_mask", np.ones_like(medgemma_given["input_ids"]))
    runs: list[dict[str, Any]] = [
        {"kind": kind, "options": options, "inputs": [pixels], "method": "encode_image"},
        {"kind": kind, "options": options, "inputs": [ids, mask]},
    ]
    image, text = transformers_js(medgemma_exported, runs, tmp_path)["runs"]
    direct = run(medgemma_exported / "onnx" / "vision_encoder.onnx", medgemma_given)["image_features"]
    theirs = np.asarray(image["output"]["data"], np.float32).reshape(image["output"]["dims"])
    assert np.allclose(theirs, direct, atol=1e-3)
    assert "image_index" in text["error"]
