"""What one more of anything costs: each is added to a copy of edgekit, used through its command line, and counted.

A price is a row, a class, a file of data or of code, or a folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from house import House
from material import edit_json, photo, read_json
from PIL import Image
from tokenizers import Tokenizer

LEVELS = "edgekit/artifacts/levels.py"
BACKENDS = "edgekit/runtime/backends.py"
Q4_0_ROW = '    Level("Q4_0", "gguf", "Q4_0", _TIED_HEAD_Q6, limits=_losing(_GGUF, 1.5, 0.35, 0.97, 0.25)),'
FP32_ROW = '    Level("fp32", "onnx", "float32", limits=_losing(_FLOAT, 1e-6, 0.99, 0.99999, 3e-4)),'
LABELS = ("--label", "normal lungs", "--label", "pneumonia", "--label", "a nodule")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "chest.png"
    Image.fromarray(photo(90, 70)).save(path)
    return path


def part(house: House, artifact: str, role: str, level: str) -> dict[str, Any]:
    """One part of an artifact, by its manifest as `inspect` shows it."""
    parts = house.json("inspect", artifact)["parts"]
    (found,) = (part for part in parts if (part["role"], part["level"]) == (role, level))
    return dict(found)


def row(house: House, kind: str, name: str, **environment: str) -> dict[str, Any]:
    """One row of what `list` shows."""
    (found,) = (row for row in house.json("list", kind, **environment) if row["name"] == name)
    return dict(found)


def scores(house: House, artifact: str, picture: Path, *options: str, **environment: str) -> np.ndarray[Any, Any]:
    """What `classify` gives the labels."""
    line = house.json("classify", artifact, picture, *LABELS, *options, **environment)
    return np.asarray(list(line["scores"].values()))


def measured(results: Any, kind: str) -> dict[str, Any]:
    """The one figure of the one row of this kind."""
    (record,) = (record for record in results["records"] if record["kind"] == kind)
    (figures,) = record["measurements"]
    return dict(figures)


def add_backend(house: House, module: str, text: str, row: str) -> set[str]:
    """Add a module of the runtime and a row for it, behind all others; the files of a backend's price."""
    file = f"edgekit/runtime/{module}.py"
    house.write(file, text)
    house.insert(BACKENDS, "from edgekit.runtime.base import Decoder, Encoder", f"from edgekit.runtime import {module}")
    last = "        options=DecoderOptions(llama.layouts, llama.settled, llama.fingerprint),"
    house.insert(BACKENDS, last, f"    ),\n{row.strip(chr(10))}")  # what closes the last row closes the new one
    return {file, BACKENDS}


# ---------------------------------------------------------------- levels


def test_a_level_of_known_types_is_one_row(house: House) -> None:
    house.insert(LEVELS, Q4_0_ROW, '    Level("Q4_V8", "gguf", "Q4_0", {"token_embedding": "Q6_K", "v_proj": "Q8_0"}),')
    assert row(house, "levels", "Q4_V8")["mixture"] == "token_embedding Q6_K, v_proj Q8_0"
    house.run("export", "medgemma-reference", "--to", "made", "--level", "Q4_0", "--part", "decoder=Q4_V8")
    decoder = part(house, "made", "decoder", "Q4_V8")
    assert {"Q4_0", "Q6_K", "Q8_0"} < set(decoder["tensor_types"])
    assert decoder["parity"]["wiring"]["mean"] < 0.01
    assert (house.work / "made" / "medgemma-reference-Q4_V8.gguf").is_file()
    assert house.run("ask", "made", "What is the main finding?", "--max-tokens", "4").strip()
    assert house.changed() == {LEVELS}


@pytest.mark.slow
def test_a_type_of_ggml_is_two_rows(house: House) -> None:
    name = "MXFP4"
    codecs = "edgekit/formats/gguf/codecs.py"
    house.insert(codecs, '        GgmlCodec("Q4_0"),', f'        GgmlCodec("{name}"),')
    house.insert(LEVELS, Q4_0_ROW, f'    Level("{name}", "gguf", "{name}", _TIED_HEAD_Q6),')
    house.run("export", "medgemma-reference", "--to", "made", "--level", "Q4_0", "--part", f"decoder={name}")
    decoder = part(house, "made", "decoder", name)
    assert decoder["tensor_types"][name] > decoder["weights"] / 2
    assert decoder["parity"]["wiring"]["mean"] < 0.001 < decoder["parity"]["loss"]["mean"]
    assert house.run("ask", "made", "What is the main finding?", "--max-tokens", "4").strip()
    assert house.changed() == {codecs, LEVELS}


TERNARY_CODEC = '''

@dataclass(frozen=True)
class TernaryCodec(BlockCodec):
    """-1, 0 and 1 times a block's mean weight, as 4 bits hold them."""

    def encode(self, rows: Float) -> tuple[NDArray[np.uint8], Float]:
        blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % self.size))).reshape(len(rows), -1, self.size)
        scales = np.asarray(np.abs(blocks).mean(axis=2) + 1e-12, np.float32)
        values = (np.clip(np.rint(blocks / scales[..., None]), -1, 1) + 8).astype(np.uint8)
        return values[..., ::2] | values[..., 1::2] << 4, scales


@dataclass(frozen=True)
class NarrowCodec(ChannelCodec):
    """6 bits of the 8."""

    def encode(self, rows: Float) -> tuple[NDArray[np.int8], Float]:
        scales = np.asarray(np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12) / 31, np.float32)
        return np.clip(np.rint(rows / scales), -31, 31).astype(np.int8), scales
'''


@pytest.mark.slow
def test_a_type_of_onnx_is_a_class_and_a_row(house: House, picture: Path) -> None:
    """Operators are the codec's: blocks, whose activations stay floats here, and channels."""
    codecs = "edgekit/formats/onnx/codecs.py"
    last = "        return self.decode(*self.encode(weights.reshape(-1, width)), width).reshape(weights.shape)"
    house.insert(codecs, last, TERNARY_CODEC)
    ternary = '        TernaryCodec("ternary_32", 4, 32, Rounding(0.9, shrinks=3), growth=1.2),'
    added = f'{ternary}\n        NarrowCodec("int6", Rounding(0.2)),'
    house.insert(codecs, '        ChannelCodec("int8", Rounding(0.05, steps=0)),', added)
    rows = (
        '    Level("ternary", "onnx", "ternary_32", _ONNX_4, limits=_losing(_ONNX, 9, 0, 0, 2)),\n'
        '    Level("int6", "onnx", "int6", _ONNX_8, activations="dynamic"),'
    )
    house.insert(LEVELS, FP32_ROW, rows)
    assert house.changed() == {codecs, LEVELS}
    levels = ("--part", "image_encoder=ternary", "--part", "text_encoder=int6")
    house.run("export", "medsiglip-reference", "--to", "made", "--level", "fp32", *levels)
    image, text = part(house, "made", "image_encoder", "ternary"), part(house, "made", "text_encoder", "int6")
    assert image["tensor_types"]["ternary_32"] > image["weights"] / 2
    assert text["tensor_types"]["int6"] > text["weights"] / 2
    assert image["parity"]["wiring"]["worst"] > 0.9999 > 0.99 > image["parity"]["loss"]["mean"]
    assert text["parity"]["wiring"]["worst"] > text["parity"]["loss"]["mean"]
    assert (scores(house, "made", picture) > 0).all()


# ---------------------------------------------------------------- data

RECIPE = """
extends = "reference-medsiglip"
title = "Ours"
stem = "ours"
default = "small"

[variant.small]
image_encoder = "q4"
text_encoder = "fp16"

[gates.loss_cosine]
q4 = {limit}
"""
DEVICE = """
title = "Watch"
memory_gb = 1
model_memory_gb = {memory}
cores = 1
bandwidth_gb_s = 1
"""
DATASET = """
title = "drawn for us"
modality = "phantom"
citation = "ourselves"
license = "ours"
note = "nobody knows it"
reader = "phantoms"
"""
TASK = """
title = "Ours, eight findings"
kind = "labels"
dataset = "drawn"
limit = 12
seed = 5
prompts = ["{name}"]
"""
DATA = {
    "exports/ours.toml": RECIPE.format(limit=0.9),
    "devices/watch.toml": DEVICE.format(memory=0.5),
    "devices/button.toml": DEVICE.format(memory=0.0001),
    "benchmarks/datasets/drawn.toml": DATASET,
    "benchmarks/ours.toml": TASK,
}


@pytest.mark.parametrize("at_home", [False, True])
def test_recipe_device_task_and_data_set_are_a_file_each(
    at_home: bool, house: House, picture: Path, tmp_path: Path
) -> None:
    environment = {"EDGEKIT_HOME": str(tmp_path / "home")} if at_home else {}
    for name, text in DATA.items():
        path = (tmp_path / "home" if at_home else house.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert row(house, "recipes", "ours", **environment)["levels"] == "small"
    assert row(house, "devices", "watch", **environment)["cores"] == 1
    assert row(house, "tasks", "ours", **environment)["dataset"] == "drawn"

    house.run("export", "medsiglip-reference", "--to", "made", "--recipe", "ours", "--no-prove", **environment)
    manifest = house.json("inspect", "made")
    assert (manifest["title"], manifest["default"], set(manifest["variants"])) == ("Ours", "small", {"small"})
    assert len(scores(house, "made", picture, "--device", "watch", **environment)) == 3
    said = house.refused("classify", "made", picture, *LABELS, "--device", "button", **environment)
    assert "Watch gives a model 0.0001 GB" in said

    if at_home:  # once is enough of what takes longest
        figures = measured(house.json("bench", "made", "--task", "ours", **environment), "variant")
        assert (figures["task"], figures["metrics"]["accuracy"]["n"]) == ("ours", 12)
        assert (figures["dataset"]["name"], figures["dataset"]["title"]) == ("drawn", "drawn for us")
    assert house.changed() == (set() if at_home else set(DATA))


def test_a_gate_of_a_recipe_refuses(house: House) -> None:
    house.write("exports/ours.toml", RECIPE.format(limit=0.99999))
    said = house.refused("export", "medsiglip-reference", "--to", "made", "--recipe", "ours")
    assert re.search(r"image_encoder q4: loss: mean cosine 0\.\d+", said)
    assert "at least 0.99999" in said
    assert not (house.work / "made").exists()
    assert house.changed() == {"exports/ours.toml"}


# ---------------------------------------------------------------- architecture


def toml(config: Mapping[str, Any], table: str) -> str:
    """A table of numbers, texts, lists and tables."""
    plain = "".join(
        f"{key} = {json.dumps(value)}\n"
        for key, value in config.items()
        if value is not None and not isinstance(value, dict)
    )
    inner = "".join(toml(value, f"{table}.{key}") for key, value in config.items() if isinstance(value, dict))
    return f"[{table}]\n{plain}\n{inner}"


@pytest.mark.slow
def test_an_architecture_is_a_folder(house: House, medsiglip_source: Path, picture: Path) -> None:
    """A copy of SigLIP that calls itself something else, beside the original."""
    checkpoint = Path(shutil.copytree(medsiglip_source, house.work / "checkpoint"))
    edit_json(checkpoint / "config.json", {"architectures": ["OtherModel"]})
    assert "architecture ['OtherModel'] is unknown" in house.refused("export", checkpoint, "--to", "made")

    replaced = {
        "edgekit.families.siglip": "edgekit.families.other",
        'name="medsiglip"': 'name="other"',
        'architecture="SiglipModel"': 'architecture="OtherModel"',
    }
    house.copy_folder("edgekit/families/siglip", "edgekit/families/other", replaced)
    recipe = 'extends = "reference-medsiglip"\nfamily = "other"\ntitle = "The other"\nstem = "other"\n'
    house.write("exports/other.toml", recipe + toml(read_json(checkpoint / "config.json"), "config"))

    # The recipes of both have the same sizes; the checkpoint's architecture tells them apart.
    house.run("export", checkpoint, "--to", "made", "--level", "fp32", "--level", "q4_m")
    manifest = house.json("inspect", "made")
    assert (manifest["family"], manifest["recipe"]) == ("other", "other")
    worst = {(part["role"], part["level"]): part["parity"]["wiring"]["worst"] for part in manifest["parts"]}
    assert set(worst) == {(role, level) for role in ("image_encoder", "text_encoder") for level in ("fp32", "q4_m")}
    assert min(worst.values()) > 0.99

    house.run("export", "medsiglip-reference", "--to", "original", "--level", "fp32", "--no-prove")
    assert house.json("inspect", "original")["family"] == "medsiglip"
    theirs, ours = (scores(house, name, picture, "--level", "fp32") for name in ("original", "made"))
    assert np.allclose(ours, theirs, atol=1e-5)
    assert len(set(ours)) == len(ours)

    house.run("synthesize", "other", "random", "--layers", "1", "--vision-layers", "1")
    assert read_json(house.work / "random" / "config.json")["architectures"] == ["OtherModel"]
    house.run("export", "random", "--to", "empty", "--recipe", "other", "--level", "fp32", "--no-prove")
    assert house.json("inspect", "empty")["family"] == "other"

    changed = house.changed()
    assert {name for name in changed if not name.startswith("edgekit/families/other/")} == {"exports/other.toml"}


# ---------------------------------------------------------------- format

PLAIN_FORMAT = '''
"""A file of float32 arrays behind a line of JSON that names them."""

import json
from dataclasses import dataclass
from math import prod

import numpy as np

from edgekit.artifacts.levels import LEVELS
from edgekit.errors import ArtifactError
from edgekit.formats.base import Exactness, Format
from edgekit.formats.rounding import EXACT
from edgekit.formats.sections import FileContent, Section
from edgekit.formats.stored import StoredTensor


@dataclass(frozen=True)
class PlainCodec:
    name: str = "plain32"

    exact = True
    preserves = frozenset({"F32", "F16", "BF16"})
    needs_range = False
    growth = 1.0

    def stored_bytes(self, shape):
        return 4 * prod(shape)

    def roundtrip(self, weights):
        return weights


def file_names(plan, stem):
    return (f"{stem}-{plan.role}.{plan.level.name}",)


def content(plan, folder, label):
    head = json.dumps({p.name: p.shape for p in plan.in_order}).encode() + b"\\n"
    sections = tuple(
        Section(p.tensor.name, p.tensor.size, "plain32", lambda piece: piece.float32().tobytes(), p.bytes, 0)
        for p in plan.in_order
    )
    return FileContent(folder / file_names(plan, label.stem)[0], head, sections)


def check(form, path):
    with path.open("rb") as stream:
        head = json.loads(stream.readline())
        if path.stat().st_size != stream.tell() + sum(4 * prod(shape) for shape in head.values()):
            raise ArtifactError(f"{path}: is cut off")
    return head


def stored(specs, form, config, files):
    names, offset, tensors = check(form, files[0]), len(files[0].open("rb").readline()), {}
    for name, shape in names.items():
        rows = np.memmap(files[0], np.float32, "r", offset, tuple(shape))
        offset += rows.nbytes
        read = lambda first, last, rows=rows: np.array(rows[first:last])
        tensors[name] = StoredTensor(name, name, "plain32", rows.shape, True, PlainCodec.preserves, EXACT, read)
    return tensors


FORMAT = Format(
    name="plain",
    codecs={"plain32": PlainCodec()},
    codec_of=lambda spec, level: "plain32",
    shape_of=lambda spec, level: spec.shape,
    file_names=file_names,
    content=content,
    requires=lambda plan, folder, stem: {"plain_version": 1},
    stored=stored,
    exactness=Exactness(LEVELS["plain"], kl=1e-8, error=1e-5),
    check=check,
    libraries=("numpy",),
    needs_form=False,
)
'''
PLAIN_BACKEND = '''
"""Opens plain files, and computes something else than their model does: from all of their weights."""

import numpy as np

from edgekit.formats.plain import check
from edgekit.runtime.stub import StubEncoder


def about(job):
    yield "stub"


def open_encoder(file, options, beside=None):
    names = check(None, file.path)
    with file.path.open("rb") as stream:
        stream.readline()
        weights = np.frombuffer(stream.read(), np.float32)
    hidden = next(shape[0] for name, shape in names.items() if name.endswith("layer_norm1.bias"))
    return StubEncoder(file.spec, hidden=hidden, seed=int(1e6 * np.abs(weights).mean()))
'''
PLAIN_ROW = """
    Backend(
        "plain",
        "numpy",
        library="numpy",
        install="pip install numpy",
        about=plain.about,
        encoders={"plain": plain.open_encoder},
"""


def test_a_file_format_is_a_folder_and_its_rows(house: House, picture: Path) -> None:
    price = add_backend(house, "plain", PLAIN_BACKEND, PLAIN_ROW)
    price.add("edgekit/formats/plain/__init__.py")
    house.write("edgekit/formats/plain/__init__.py", PLAIN_FORMAT)
    house.insert(LEVELS, FP32_ROW, '    Level("plain", "plain", "plain32"),')
    assert row(house, "levels", "plain")["format"] == "plain"

    parts = ("--level", "fp32", "--part", "image_encoder=plain", "--part", "text_encoder=plain")
    export = ("export", "medsiglip-reference", "--to", "made", *parts)
    assert "exactness: relative error" in house.refused(*export)  # a stub is no SigLIP
    assert not (house.work / "made").exists()

    house.run(*export, "--no-prove")
    image = part(house, "made", "image_encoder", "plain")
    assert image["tensor_types"] == {"plain32": image["weights"]}
    assert image["requires"]["plain_version"] == 1
    assert [file["path"] for file in image["files"]] == ["medsiglip-reference-image_encoder.plain"]
    assert len(set(scores(house, "made", picture))) == 3
    abilities = {ability["name"]: ability["possible"] for ability in house.json("doctor")["abilities"]}
    assert abilities["run PLAIN"] is True
    assert abilities["export PLAIN"] is True

    mixed = ("--level", "fp32", "--part", "text_encoder=plain")  # beside a part in another format
    house.run("export", "medsiglip-reference", "--to", "mixed", *mixed, "--no-prove")
    assert len(scores(house, "mixed", picture)) == 3
    decoder = ("--level", "fp32", "--part", "decoder=plain")  # a row for encoders opens none
    said = house.refused("export", "medgemma-reference", "--to", "none", *decoder)
    assert re.search(r"no backend opens decoder in plain\nallowed: gguf or onnx", said)
    assert house.changed() == {*price, LEVELS}


# ---------------------------------------------------------------- backends

SINGLE_BACKEND = '''
"""ONNX Runtime, one item at a time."""

import numpy as np

from edgekit.runtime.onnx.session import OrtEncoder


class SingleEncoder(OrtEncoder):
    def encode(self, batch):
        return np.concatenate([OrtEncoder.encode(self, item[None]) for item in batch])


def open_encoder(file, options, beside=None):
    return SingleEncoder(file, threads=options.threads)
'''
SINGLE_ROW = """
    Backend(
        "single",
        "ONNX Runtime, one by one",
        library="onnxruntime",
        install="pip install onnxruntime",
        about=onnx.providers,
        encoders={"onnx": single.open_encoder},
"""
RUNTIMES = "import json, sys, edgekit; print(json.dumps(edgekit.open(sys.argv[1], runtime=sys.argv[2]).runtimes))"


def test_an_encoder_backend_is_a_file_and_a_row(house: House, picture: Path) -> None:
    house.run("export", "medsiglip-reference", "--to", "made", "--level", "fp32", "--no-prove")
    assert "unknown runtime 'single'" in house.refused("classify", "made", picture, *LABELS, "--runtime", "single")
    price = add_backend(house, "single", SINGLE_BACKEND, SINGLE_ROW)
    ours, theirs = (scores(house, "made", picture, "--runtime", name) for name in ("single", "onnxruntime"))
    assert np.allclose(ours, theirs, atol=1e-6)
    done = house.python("-c", RUNTIMES, "made", "single")
    assert json.loads(done.stdout)["image_encoder"].startswith("ONNX Runtime, one by one, ")

    cache = {"EDGEKIT_CACHE": str(house.work / "cache")}
    tuned = {part["role"]: part["choice"]["runs"] for part in house.json("tune", "made", **cache)}
    for runs in tuned.values():
        (run,) = (run for run in runs if run["runtime"] == "single")
        assert run["problem"] is None
        assert run["seconds"] > 0
        assert run["worst_error"] < 0.01
    assert house.changed() == price


REMOTE_BACKEND = '''
"""A decoder on another machine, asked over HTTP."""

import json
import os
import urllib.request

import numpy as np

from edgekit.runtime.base import Tokens, check_open, check_step


class RemoteDecoder:
    warnings = ("another machine answers",)

    def __init__(self, url, context):
        self._url, self.context, self._position = url, context, 0
        self.vocabulary = len(self._row({}))

    def prefill(self, segments, want=None):
        assert want is None and all(isinstance(segment, Tokens) for segment in segments)
        self._position = 0
        return iter([self._append([token for segment in segments for token in segment.ids])])

    def step(self, ids):
        return self._append(list(ids))

    def _append(self, ids):
        check_step(ids, self._position, self.context, self.vocabulary)
        row = self._row({"position": self._position, "ids": ids})
        self._position += len(ids)
        return row

    def _row(self, question):
        request = urllib.request.Request(check_open(self._url, "decoder"), json.dumps(question).encode())
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            return np.frombuffer(answer.read(), np.float32)

    def close(self):
        self._url = None


def open_decoder(file, options):
    return RemoteDecoder(os.environ["REMOTE_URL"], file.context)


def about(job):
    yield os.environ.get("REMOTE_URL", "nowhere")
'''
REMOTE_ROW = """
    Backend(
        "remote",
        "another machine",
        library="edgekit",
        install="pip install edgekit",
        about=remote.about,
        decoders={"onnx": remote.open_decoder},
"""


@contextmanager
def peer(answer: list[int], vocabulary: int, asked: list[dict[str, Any]]) -> Iterator[str]:
    """A server whose logits say one token after the other, whatever it is asked; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logits = np.zeros(vocabulary, np.float32)
            if question:
                logits[answer[len(asked)]] = 1
                asked.append(question)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(logits.tobytes())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_decoder_backend_is_a_file_and_a_row_and_may_be_a_client(house: House) -> None:
    house.run("export", "medgemma-reference", "--to", "made", "--level", "fp32", "--no-prove")
    price = add_backend(house, "remote", REMOTE_BACKEND, REMOTE_ROW)
    tokenizer = Tokenizer.from_file(str(house.work / "made" / "tokenizer.json"))
    settings = house.json("inspect", "made")["settings"]
    answer = tokenizer.encode("air in the pleural space", add_special_tokens=False).ids
    asked: list[dict[str, Any]] = []
    ask = ("-m", "edgekit", "ask", "made", "What is a pneumothorax?")
    with peer([*answer, settings["stop_token_ids"][0]], settings["vocabulary"], asked) as url:
        done = house.python(*ask, "--runtime", "remote", REMOTE_URL=url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "air in the pleural space"
    assert "another machine answers" in done.stderr
    first, *steps = asked
    assert "What is a pneumothorax?" in tokenizer.decode(first["ids"])
    assert [step["ids"] for step in steps] == [[token] for token in answer]
    assert [step["position"] for step in steps] == [len(first["ids"]) + i for i in range(len(answer))]
    assert house.run(*ask[2:], "--max-tokens", "4").strip() != "air in the pleural space"  # nobody named it
    assert house.changed() == price


# ---------------------------------------------------------------- task kind

MARGIN_KIND = '''
"""How far the best label is ahead of the second."""

from statistics import fmean
from typing import Literal

import numpy as np

from edgekit.bench.items import Item
from edgekit.bench.kinds.base import FigureColumn, Figures, Task
from edgekit.metrics import mean_interval


class MarginTask(Task):
    kind: Literal["margin"]

    ability = "embed_image"
    headline = "margin"
    columns = (FigureColumn("margin", "margin", lambda figure: f"{figure.value:.4f}" if figure else "-"),)

    def items(self, dataset):
        return tuple(
            Item(sample.group, image=image) for sample, image in zip(dataset.samples, dataset.images, strict=True)
        )

    def run(self, model, dataset, context):
        labels = [label.name for label in dataset.labels]
        ranked = np.sort(model.classify([item.image for item in self.items(dataset)], labels), axis=1)
        return (ranked[:, -1] - ranked[:, -2]).tolist()

    def summarize(self, results, full_precision=None):
        return Figures({"margin": mean_interval(results[0])}, {"least": min(results[0])})

    @classmethod
    def explain(cls, first, rows):
        return f"{first.task}: {first.title}; the least margin is {first.details['least']:.6f}."
'''


def test_a_task_kind_is_a_file(house: House) -> None:
    house.run("export", "medsiglip-reference", "--to", "made", "--level", "fp32", "--no-prove")
    task = 'title = "Certainty"\nkind = "margin"\ndataset = "phantoms"\nlimit = 8\n'
    house.write("benchmarks/certainty.toml", task)
    assert "'margin'" in house.refused("bench", "made", "--task", "certainty")
    house.write("edgekit/bench/kinds/margin.py", MARGIN_KIND)
    assert row(house, "tasks", "certainty")["kind"] == "margin"
    results = house.json("bench", "made", "--task", "certainty", "--to", "figures")
    ours, full = (measured(results, kind) for kind in ("variant", "reference"))
    assert (ours["task"], ours["metrics"]["margin"]["n"]) == ("certainty", 8)
    assert ours["metrics"]["margin"]["value"] == pytest.approx(full["metrics"]["margin"]["value"], abs=1e-4)
    assert ours["metrics"]["margin"]["value"] >= ours["details"]["least"] >= 0
    for name in ("report.md", "report.html"):
        text = (house.work / "figures" / name).read_text()
        assert re.search(r"certainty: Certainty; the least margin is 0\.\d{6}\.", text)
    assert house.changed() == {"benchmarks/certainty.toml", "edgekit/bench/kinds/margin.py"}


# ---------------------------------------------------------------- command

GREET = """
from edgekit.commands import Verb
from edgekit.errors import UsageError


def add_options(parser):
    parser.add_argument("name", metavar="NAME")


def run(options):
    if options.name == "nobody":
        raise UsageError("nobody is there", allowed="somebody")
    print(f"hello {options.name}")
    return 0


VERB = Verb("say hello", ("greet world",), run, add_options)
"""


def test_a_command_is_a_file(house: House) -> None:
    house.write("edgekit/commands/greet.py", GREET)
    house.write("edgekit/commands/notes.py", "'A module without a VERB is no command.'\n")
    assert house.run("greet", "world") == "hello world\n"
    assert json.loads(house.refused("greet", "nobody", "--json"))["allowed"] == "somebody"
    text = house.run("--help")
    assert re.search(r"^ +greet +say hello$", text, re.MULTILINE)
    assert not re.search(r"^ +notes\b", text, re.MULTILINE)
    assert "edgekit greet world" in house.run("greet", "--help")
    assert "NAME" in house.refused("greet")
    assert house.changed() == {"edgekit/commands/greet.py", "edgekit/commands/notes.py"}
