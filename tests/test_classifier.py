"""Fixed labels as one file: it scores as the artifact does, as transformers does, and nothing wrong is published."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import contents, photo, read_json
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgekit.artifacts import manifest
from edgekit.artifacts.differences import DifferencesError
from edgekit.artifacts.manifest import Preprocessing
from edgekit.classifier import files, proof
from edgekit.classifier.compile import Compiled, compile_classifier
from edgekit.classifier.graph import Head, classifier
from edgekit.classifier.labels import Labels, read
from edgekit.classifier.opened import Classifier
from edgekit.classifier.opened import read as read_file
from edgekit.cli import main
from edgekit.errors import ArtifactError, EdgekitError, InputError, UsageError
from edgekit.inputs.image import PictureWarning
from edgekit.inputs.samples import shipped_inputs
from edgekit.progress import Progress
from edgekit.runtime import open_model
from edgekit.runtime.embedding_model import ContrastiveModel

NODE_SCRIPT = Path(__file__).parent.parent / "benchmarks" / "peers" / "onnxruntime_node.mjs"
NODE = os.environ.get("EDGEKIT_ONNXRUNTIME_NODE", "")
LABELS = """
[labels]
normal = ["normal", "chest x-ray: normal", "normal lungs on chest x-ray"]
"viral pneumonia" = "a chest x-ray showing viral pneumonia"
glioma = ["glioma", "a glioma on brain mri"]
"""
SIZES = ((224, 224), (37, 500), (801, 640), (64, 48), (2, 3))


def pictures() -> list[NDArray[np.uint8]]:
    """Of several sizes, in colour."""
    return [photo(width, height, seed) for seed, (width, height) in enumerate(SIZES)]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    path = tmp_path_factory.mktemp("labels") / "labels.toml"
    path.write_text(LABELS)
    return read(path)


@pytest.fixture(scope="module")
def compiled(medsiglip_few: Path, labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The reference model at fp32, proven."""
    target = tmp_path_factory.mktemp("compiled") / "findings.onnx"
    return compile_classifier(medsiglip_few, labels, target, "fp32", inputs=shipped_inputs())


# ---------------------------------------------------------------- right


def test_it_scores_as_classify_does(medsiglip_few: Path, compiled: Compiled, labels: Labels) -> None:
    with open_model(medsiglip_few, "fp32", runtime="default") as model:
        expected = model.classify(pictures(), labels.prompts)
    with Classifier(compiled.files[0]) as found:
        scores, logits = found.ask(pictures())
    assert np.abs(scores - expected).max() < 5e-4
    assert np.allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-6)
    assert expected.max() > 0.1, "scores near nothing would show nothing"


def odd_files(folder: Path) -> Iterator[tuple[Path, Image.Image]]:
    """Files of many kinds, each with the picture in it, by Pillow or by what it was made of."""
    plain = [Image.fromarray(picture) for picture in pictures()]
    picture, small = plain[0], plain[3]
    fading = picture.copy()
    fading.putalpha(Image.linear_gradient("L").resize(picture.size))
    deep = np.random.default_rng(5).integers(0, 1 << 16, (70, 110)).astype(np.uint16)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *((f"plain-{number}.png", image, {}) for number, image in enumerate(plain)),
        *((f"narrow-{width}.png", Image.fromarray(photo(width, 92 - width)), {}) for width in (2, 90)),
        *((f"turned-{turn}.jpg", plain[1], {"exif": exif(turn), "quality": 90}) for turn in range(1, 9)),
        ("grey.png", picture.convert("L"), {}),
        ("grey.jpg", small.convert("L"), {}),
        ("black-and-white.png", picture.convert("1"), {}),
        ("palette.png", picture.quantize(32), {}),
        ("holes.png", picture.quantize(32), {"transparency": 3}),
        ("fading.png", fading, {}),
        ("fading.webp", fading, {"lossless": True}),
        ("grey-fading.png", fading.convert("LA"), {}),
        ("printer.jpg", picture.convert("CMYK"), {}),
        ("printer.tif", small.convert("CMYK"), {}),
        ("lossy.webp", plain[2], {}),
        ("few.gif", small, {}),
        ("rows.bmp", small, {}),
        ("progressive.jpg", plain[2], {"progressive": True}),
    ]
    for name, image, options in kinds:
        image.save(folder / name, **options)
        yield folder / name, ImageOps.exif_transpose(Image.open(folder / name))
    for name in ("deep.png", "deep.tif"):  # Pillow itself cuts 16 bits off at 255
        Image.fromarray(deep).save(folder / name)
        yield folder / name, Image.fromarray(np.rint(deep / 257).astype(np.uint8))


def exif(turn: int) -> bytes:
    """What says how a camera was held."""
    said = Image.Exif()
    said[0x0112] = turn
    return said.tobytes()


@dataclass(frozen=True)
class Transformers:
    """Its own model, tokenizer and Pillow-backed processor of a checkpoint, in float32: pictures to logits."""

    model: Any
    processor: Any
    labels: Any  # unit vectors, [labels, width]

    @classmethod
    def of(cls, source: Path, labels: Labels) -> Transformers:
        import torch
        from transformers import AutoTokenizer, SiglipModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        model = SiglipModel.from_pretrained(source, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(source)
        length, vectors = model.config.text_config.max_position_embeddings, []
        with torch.no_grad():
            for prompts in labels.prompts:
                ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
                rows = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
                mean = (rows / rows.norm(dim=-1, keepdim=True)).mean(dim=0)
                vectors.append(mean / mean.norm())
        return cls(model, SiglipImageProcessorPil.from_pretrained(source), torch.stack(vectors))

    def logits(self, picture: Image.Image) -> NDArray[np.float32]:
        import torch

        asked = {"do_convert_rgb": True, "input_data_format": "channels_last", "return_tensors": "pt"}
        with torch.no_grad():
            pixels = self.processor(images=[picture], **asked)["pixel_values"]
            image = self.model.get_image_features(pixel_values=pixels).pooler_output[0]
            logits = self.labels @ (image / image.norm()) * self.model.logit_scale.exp() + self.model.logit_bias
        return np.asarray(logits)


def test_it_scores_as_transformers_does(
    medsiglip_source: Path, compiled: Compiled, labels: Labels, tmp_path: Path
) -> None:
    """Files of 30 kinds; those of one row or column, which are no pictures to edgekit, as pixels."""
    reference = Transformers.of(medsiglip_source, labels)
    session = onnxruntime.InferenceSession(compiled.files[0])
    expected, found = [], []
    with Classifier(compiled.files[0]) as classifier:
        for path, picture in odd_files(tmp_path):
            expected.append(reference.logits(picture))
            found.append(classifier.ask([path])[1][0])
        assert len(found) >= 30
        for width, height in ((1, 90), (90, 1)):
            row = photo(width, height)
            expected.append(reference.logits(Image.fromarray(row)))
            found.append(session.run(["logits"], {"image": row[None]})[0][0])
            Image.fromarray(row).save(tmp_path / "row.png")
            with pytest.raises(InputError, match=f"{width} x {height} pixels"):
                classifier.ask([tmp_path / "row.png"])
    scores, others = (1 / (1 + np.exp(-np.stack(logits))) for logits in (found, expected))
    assert np.abs(scores - others).max() < 1e-3
    assert np.abs(np.stack(found) - np.stack(expected)).max() / compiled.card.scale < 1e-3
    assert np.ptp(others, axis=0).max() > 0.1, "scores alike would show nothing"


def test_classify_scores_files_of_all_kinds_likewise(
    medsiglip_few: Path, compiled: Compiled, labels: Labels, tmp_path: Path
) -> None:
    paths = [path for path, _ in odd_files(tmp_path)]
    with open_model(medsiglip_few, "fp32", runtime="default") as model, warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)  # they are odd on purpose
        expected = model.classify(paths, labels.prompts)
    with Classifier(compiled.files[0]) as classifier:
        assert np.abs(classifier.ask(paths)[0] - expected).max() < 1e-3


@pytest.mark.parametrize("level", ["int8", "q4"])
def test_other_levels_are_proven_and_keep_the_best_labels(
    medsiglip_few: Path, labels: Labels, tmp_path: Path, level: str, compiled: Compiled
) -> None:
    target = tmp_path / "findings.onnx"
    made = compile_classifier(medsiglip_few, labels, target, level, inputs=shipped_inputs())
    assert (made.card.level, made.card.text_level) == (level, "fp32")
    assert made.proof
    assert made.proof.worst < 0.01
    assert made.proof.worst_resized < 0.01
    assert made.proof.against == "fp32"
    assert made.proof.loss_worst < 0.2
    assert target.stat().st_size < compiled.files[0].stat().st_size


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@settings(max_examples=25)
@given(size=st.tuples(st.integers(2, 400), st.integers(2, 400)), side=st.integers(8, 96), seed=st.integers(0, 99))
def test_images_are_resized_as_pillow_does(resample: Any, size: tuple[int, int], side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    asked = Preprocessing(size=side, resample=resample, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = np.rint(resized(asked, picture) * 255)
    filters = {"bilinear": 2, "bicubic": 3}
    expected = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling(filters[resample])))
    assert np.abs(found - expected).max() <= 1


def resized(preprocessing: Preprocessing, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a classifier's graph gives its encoder, [height, width, 3]."""
    info = onnx.helper.make_tensor_value_info
    pixels = info("pixel_values", 1, ["batch", 3, preprocessing.size, preprocessing.size])
    pooled = onnx.helper.make_node("ReduceMean", ["pixel_values", "axes"], ["pooled"], keepdims=0)
    axes = onnx.numpy_helper.from_array(np.asarray([2, 3]), "axes")
    graph = onnx.helper.make_graph([pooled], "g", [pixels], [info("pooled", 1, ["batch", 3])], [axes])
    encoder = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    head = Head(np.eye(3, dtype=np.float32), 1.0, 0.0, "sigmoid")
    model = classifier(encoder, "pooled", preprocessing, head)
    model.graph.output.append(pixels)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (given,) = session.run(["pixel_values"], {"image": picture[None]})
    return np.asarray(given[0].transpose(1, 2, 0))


def test_softmax_where_labels_compete(medsiglip_few: Path, labels: Labels, tmp_path: Path) -> None:
    competing = labels.model_copy(update={"scores": "softmax"})
    made = compile_classifier(medsiglip_few, competing, tmp_path / "a.onnx", "fp32", inputs=shipped_inputs())
    with open_model(medsiglip_few, "fp32", runtime="default") as model:
        expected = model.classify(pictures(), labels.prompts, "softmax")
    with Classifier(made.files[0]) as found:
        assert np.abs(found.ask(pictures())[0] - expected).max() < 2e-3


def test_the_file_says_what_it_is(compiled: Compiled, medsiglip_few: Path, labels: Labels) -> None:
    model = onnx.load(compiled.files[0])
    onnx.checker.check_model(model)
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["edgekit.classifier"]["labels"]["labels"][2]["name"] == "glioma"
    assert said["edgekit.classifier"]["source_sha256"] == manifest.read(medsiglip_few).source.sha256
    assert said["edgekit.proof"]["worst"] == compiled.proof.worst if compiled.proof else False
    _, card, found = read_file(compiled.files[0])
    assert (card, found) == (compiled.card, compiled.proof)
    assert not any("text_model" in tensor.name for tensor in model.graph.initializer)
    assert [value.name for value in model.graph.input] == ["image"]


def test_twice_gives_the_same_bytes(medsiglip_few: Path, labels: Labels, compiled: Compiled, tmp_path: Path) -> None:
    made = compile_classifier(medsiglip_few, labels, tmp_path / "findings.onnx", "fp32", inputs=shipped_inputs())
    assert made.files[0].read_bytes() == compiled.files[0].read_bytes()
    assert list(contents(tmp_path)) == ["findings.onnx"]


def test_large_weights_lie_beside(
    medsiglip_few: Path, labels: Labels, compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", (8 << 20) + 1000)
    target = tmp_path / "findings.onnx"
    made = compile_classifier(medsiglip_few, labels, target, "fp32", inputs=shipped_inputs())
    assert [path.name for path in made.files] == ["findings.onnx", "findings.onnx_data"]
    assert sorted(contents(tmp_path)) == ["findings.onnx", "findings.onnx_data"]
    with Classifier(target) as apart, Classifier(compiled.files[0]) as together:
        assert np.array_equal(apart.ask(pictures())[0], together.ask(pictures())[0])


# ---------------------------------------------------------------- wrong


@dataclass(frozen=True)
class Sides:
    """What a proof compares a file with."""

    model: ContrastiveModel
    head: Head
    other: proof.Faithful

    def prove(self, path: Path) -> proof.Proof:
        return proof.prove(path, self.model, self.head, self.other, shipped_inputs(), Progress())


@pytest.fixture(scope="module")
def sides(medsiglip_few: Path, labels: Labels) -> Any:
    with open_model(medsiglip_few, "fp32", runtime="default") as model:
        assert isinstance(model, ContrastiveModel)
        settings = model.settings
        other = proof.faithful(model, "fp32", labels, shipped_inputs())
        yield Sides(model, Head(other.vectors, np.exp(settings.logit_scale), settings.logit_bias, "sigmoid"), other)


def _node(model: Any, kind: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == kind)


def _tensor(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == f"classifier.{name}")


def another_resize(model: Any) -> None:
    node = _node(model, "Resize")
    del node.attribute[:]
    wrong = {"mode": "linear", "antialias": 1, "exclude_outside": 1}
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in wrong.items())


def sides_exchanged(model: Any) -> None:
    (order,) = _node(model, "Transpose").attribute
    order.ints[:] = [0, 3, 2, 1]


def scaled(name: str, by: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = _tensor(model, name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(by), tensor.name))

    return change


def labels_exchanged(model: Any) -> None:
    tensor = _tensor(model, "labels")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))


def no_unit_length(model: Any) -> None:
    norm = _node(model, "LpNormalization")
    _node(model, "Gemm").input[0] = norm.input[0]
    model.graph.node.remove(norm)


WRONG = {
    "resize": another_resize,
    "sides exchanged": sides_exchanged,
    "mean": scaled("mean", 0.97),
    "deviation": scaled("deviation", 1.02),
    "labels' scale": scaled("labels", 1.01),
    "bias": scaled("bias", 1.01),
    "labels exchanged": labels_exchanged,
    "no unit length": no_unit_length,
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused(kind: str, compiled: Compiled, sides: Sides, tmp_path: Path) -> None:
    model = onnx.load(compiled.files[0])
    WRONG[kind](model)
    path = tmp_path / "findings.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DifferencesError, match=r"(wiring: scores|preprocessing: a picture)"):
        sides.prove(path)


def test_the_right_file_is_not(compiled: Compiled, sides: Sides) -> None:
    found = sides.prove(compiled.files[0])
    assert compiled.proof
    figures = {name: value for name, value in found.model_dump().items() if isinstance(value, float)}
    assert figures == pytest.approx({name: getattr(compiled.proof, name) for name in figures}, abs=1e-5)
    assert max(found.loss_worst, found.worst_resized) < 1e-3
    assert found.spread > 0.3


def test_a_proof_that_would_see_nothing_counts_for_nothing(compiled: Compiled, sides: Sides, tmp_path: Path) -> None:
    """Labels that no image can tell apart: every file is right."""
    model = onnx.load(compiled.files[0])
    scaled("labels", 0)(model)
    path = tmp_path / "findings.onnx"
    path.write_bytes(model.SerializeToString())
    blind = replace(sides, head=replace(sides.head, vectors=np.zeros_like(sides.head.vectors)))
    with pytest.raises(DifferencesError, match="the comparison shows nothing"):
        blind.prove(path)


def test_what_is_refused_leaves_nothing(
    medsiglip_few: Path, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LIMITS", dict.fromkeys((False, True), (-1.0, 1.0, 1.0)))
    with pytest.raises(DifferencesError):
        compile_classifier(medsiglip_few, labels, tmp_path / "a.onnx", inputs=shipped_inputs())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "labels.txt", "labels"),
        ("a\nb\na\n", "labels.txt", "'a' stands twice"),
        ("a\x01\n", "labels.txt", "name"),
        ("[labels]\n", "labels.toml", "labels"),
        ("[labels]\na = []\n", "labels.toml", "labels"),
        ("[labels]\na = 3\n", "labels.toml", "labels.a"),
        ('scores = "best"\n[labels]\na = "b"\n', "labels.toml", "scores"),
        ('[labels]\na = "b"\na = "c"\n', "labels.toml", "TOML"),
        ("\n".join(map(str, range(1001))), "labels.txt", "labels"),
    ],
)
def test_labels_that_are_none(text: str, name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read(path)


def test_labels_a_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffnormal lungs\n\n  pneumonia \r\n", encoding="utf-8")
    assert read(path).prompts == [["normal lungs"], ["pneumonia"]]
    with pytest.raises(InputError, match=r"no such|cannot be read"):
        read(tmp_path / "none.txt")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("text", "said"), [("a\nA\n", "the same to the model"), ("a\n!!!\n", "holds nothing that the model reads")]
)
def test_labels_that_the_model_cannot_tell_apart(
    text: str, said: str, medsiglip_artifact: Path, tmp_path: Path
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        compile_classifier(medsiglip_artifact, read(path), tmp_path / "a.onnx")


def test_what_cannot_be_compiled(
    medsiglip_artifact: Path, medgemma_artifact: Path, labels: Labels, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has no encoder of texts"):
        compile_classifier(medgemma_artifact, labels, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="no level 'q9'"):
        compile_classifier(medsiglip_artifact, labels, tmp_path / "a.onnx", "q9")
    for name in ("a.tflite", "a b.onnx", ".onnx", "ä.onnx"):
        with pytest.raises(UsageError, match="no name for a file"):
            compile_classifier(medsiglip_artifact, labels, tmp_path / name)
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        compile_classifier(medsiglip_artifact, labels, tmp_path / "a.onnx")
    assert contents(tmp_path) == {"a.onnx": b"mine"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], "findings.onnx"),
        (lambda data: data.replace(b"Sigmoid", b"Sigmo1d"), "Sigmo1d"),
        (lambda data: data.replace(b"edgekit.classifier", b"edgekit.classifiex"), "is no classifier"),
        (lambda data: data.replace(b'"schema_version":1', b'"schema_version":2'), "another schema"),
        (lambda data: data.replace(b'"scores":"sigmoid"', b'"scores":"sigm0id"'), "scores"),
        (lambda data: data + b"\xff" * 9, "findings.onnx"),
    ],
)
def test_a_damaged_file_is_not_opened(
    change: Callable[[bytes], bytes], said: str, compiled: Compiled, tmp_path: Path
) -> None:
    path = tmp_path / "findings.onnx"
    path.write_bytes(change(compiled.files[0].read_bytes()))
    with pytest.raises(ArtifactError, match=said):
        Classifier(path)


# ---------------------------------------------------------------- the command


def test_the_command(medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("normal lungs\npneumonia\n")
    command = ["compile-classifier", str(medsiglip_artifact), "--labels", str(tmp_path / "labels.txt"), "--to"]
    assert main([*command, str(tmp_path / "a.onnx"), "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert said["proof"]["worst"] < 1e-3
    assert said["stand_in"] in err
    assert main([*command, str(tmp_path / "b.onnx"), "--no-prove"]) == 0
    assert "parity    not measured" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "b.onnx")]) == 2


# ---------------------------------------------------------------- phones


@pytest.mark.slow
@pytest.mark.skipif(not NODE, reason="EDGEKIT_ONNXRUNTIME_NODE names no folder of node_modules")
@pytest.mark.parametrize("level", ["fp32", "int8", "q4"])
def test_onnxruntime_node(medsiglip_few: Path, labels: Labels, tmp_path: Path, level: str) -> None:
    """The same library as in ONNX Runtime's packages for phones, behind another binding: the same file.

    npm install --prefix /tmp/ort onnxruntime-node && EDGEKIT_ONNXRUNTIME_NODE=/tmp/ort
    """
    made = compile_classifier(medsiglip_few, labels, tmp_path / "a.onnx", level, inputs=shipped_inputs())
    given = []
    for number, picture in enumerate(pictures()):
        path = tmp_path / f"{number}.rgb"
        path.write_bytes(picture.tobytes())
        given.append({"shape": [1, *picture.shape], "path": str(path)})
    (tmp_path / "job.json").write_text(json.dumps({"model": str(made.files[0]), "images": given}))
    command = ["node", NODE_SCRIPT, NODE, tmp_path / "job.json", tmp_path / "answer.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with Classifier(made.files[0]) as here:
        expected, _ = here.ask(pictures())
    found = [image["scores"] for image in read_json(tmp_path / "answer.json")["images"]]
    assert np.abs(np.asarray(found) - expected).max() < 1e-3


def test_errors_are_edgekits(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="cannot be read"):
        Classifier(tmp_path / "none.onnx")
