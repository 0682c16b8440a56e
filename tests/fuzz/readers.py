"""Every way into edgekit for what others wrote: a row each, with inputs that are read as they are.

Only reading is tried here; what a library then makes of files that were accepted is tried by the differential samples
of `mutators_gguf`, `mutators_onnx` and `mutators_tokenizer`.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mutators
import mutators_gguf
import mutators_onnx
import mutators_tokenizer
import numpy as np
from engine import Reader
from PIL import Image

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.find import FileKind, names
from edgekit.artifacts.find import find as find_file
from edgekit.checkpoints import reference_models
from edgekit.machine.temporary import temporary_folder

MEDGEMMA, MEDSIGLIP = "medgemma-reference", "medsiglip-reference"


def _source(model: str) -> Path:
    folder = reference_models.path(model)
    assert folder is not None, f"{model} belongs to the repository"
    return folder


@cache
def _artifacts() -> Path:
    """Unproven exports of both reference models, made once a process tree and shared with its workers."""
    from edgekit.prove import publish

    stack = ExitStack()
    made = stack.enter_context(temporary_folder("fuzz-seeds"))
    atexit.register(stack.close)  # forked workers end without
    publish.export(_source(MEDGEMMA), made / MEDGEMMA, levels=["Q4_0", "q4"], prove=False)
    publish.export(_source(MEDSIGLIP), made / MEDSIGLIP, levels=["fp32"], prove=False)
    return made


def _written(data: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- checkpoints


def _safetensors_seeds() -> Sequence[bytes]:
    from safetensors.numpy import save

    small = {"norm.weight": np.ones(4, np.float32), "embed.weight": np.ones((3, 4), np.float16)}
    return [save(small), save({"a": np.zeros((2, 2), np.float32)}, {"format": "pt"})]


def _damaged_header(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return mutators.bytes_(rng, data)
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = mutators.json_(rng, data[8:end])
    return struct.pack("<Q", len(header)) + header + data[end:]


def _read_safetensors(data: bytes, folder: Path) -> object:
    from edgekit.checkpoints.tensors import read_header

    return read_header(_written(data, folder / "model.safetensors"))


CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "generation_config.json")


def _checkpoint_reader(model: str, file: str) -> Reader:
    """One JSON file of a checkpoint whose other files are right, through everything that comes before an export."""

    def read(data: bytes, folder: Path) -> object:
        from edgekit.families.source import open_source
        from edgekit.families.tokenizer_config import stated_tokens

        root = folder / model
        root.mkdir(exist_ok=True)
        for path in _source(model).iterdir():
            place = root / path.name
            if path.name != file and not place.exists():
                place.symlink_to(path)
        _written(data, root / file)
        source = open_source(root)
        source.check_tensors()
        return source.preprocessing, source.settings, stated_tokens(root / "tokenizer_config.json")

    return Reader(f"{model} {file}", lambda: [(_source(model) / file).read_bytes()], mutators.json_, read, 2)


def _index_seeds() -> Sequence[bytes]:
    from edgekit.checkpoints.tensors import read_header

    tensors = read_header(_source(MEDSIGLIP) / "model.safetensors")
    weight_map = {tensor.name: "model-00001-of-00001.safetensors" for tensor in tensors}
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()]


def _read_index(data: bytes, folder: Path) -> object:
    from edgekit.checkpoints.checkpoint import open_checkpoint

    root, original = folder / "sharded", _source(MEDSIGLIP)
    if not root.is_dir():
        root.mkdir()
        (root / "config.json").symlink_to(original / "config.json")
        (root / "model-00001-of-00001.safetensors").symlink_to(original / "model.safetensors")
    _written(data, root / "model.safetensors.index.json")
    return open_checkpoint(root)


# ---------------------------------------------------------------- artifacts


def _manifest_reader(model: str) -> Reader:
    """What every command does with a manifest before it opens anything, and what shows one."""

    def read(data: bytes, folder: Path) -> object:
        from edgekit.commands.support.artifact_text import artifact_lines, usage_lines
        from edgekit.runtime.opening import prepare

        artifact = folder / model
        if not artifact.is_dir():
            shutil.copytree(_artifacts() / model, artifact)
        _written(data, artifact / manifests.FILE_NAME)
        manifest = manifests.read(artifact)
        lines = [*artifact_lines(artifact, manifest), *usage_lines(artifact, manifest)]
        prepare(artifact)
        return lines

    seeds = cache(lambda: [(_artifacts() / model / manifests.FILE_NAME).read_bytes()])
    return Reader(f"{model} manifest", seeds, mutators.json_, read, 2)


def _gguf_reader(role: str) -> Reader:
    """The header of one part's file, as it is read before llama.cpp gets the file."""

    @cache
    def seeds() -> Sequence[bytes]:
        level = {"decoder": "Q4_0", "vision": "mmproj"}[role]
        return [path.read_bytes() for path in sorted((_artifacts() / MEDGEMMA).glob("*.gguf")) if level in path.name]

    def mutate(rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.7:
            return mutators_gguf.mutate(rng, data)
        begin = data.rindex(b"\0" * 8, 0, len(data) // 2) if rng.random() < 0.2 else min(len(data), 200_000)
        return mutators.bytes_(rng, data[:begin]) + data[begin:]

    def read(data: bytes, folder: Path) -> object:
        from edgekit.families import FAMILIES
        from edgekit.formats.gguf.form import read_checked

        form = FAMILIES["medgemma"].roles[role].forms["gguf"]
        return read_checked(form, _written(data, folder / "model.gguf"))

    return Reader(f"GGUF {role}", seeds, mutate, read, 2)


def _onnx_seeds() -> Sequence[bytes]:
    return [path.read_bytes() for path in _onnx_graphs()]


@cache
def _onnx_graphs() -> Sequence[Path]:
    return sorted(path for model in (MEDGEMMA, MEDSIGLIP) for path in (_artifacts() / model / "onnx").glob("*.onnx"))


def _damaged_graph(rng: random.Random, data: bytes) -> bytes:
    return (mutators_onnx.mutate if rng.random() < 0.7 else mutators.bytes_)(rng, data)


def _read_onnx(data: bytes, folder: Path) -> object:
    from edgekit.formats.onnx.operators import read_checked

    for graph in _onnx_graphs():  # any data file that a seed names is there, as large as it was, and all hole
        beside = graph.with_name(f"{graph.name}_data")
        place = folder / "onnx" / beside.name
        if beside.is_file() and not place.exists():
            _written(b"", place)
            os.truncate(place, beside.stat().st_size)
    return read_checked(_written(data, folder / "onnx" / "model.onnx"))


# ---------------------------------------------------------------- texts and pictures


def _read_tokenizer(data: bytes, folder: Path) -> object:
    """What comes before the Rust library gets a tokenizer, which it does in a process of its own first."""
    from edgekit.inputs.tokenizer_schema import check_tokenizer_json

    return check_tokenizer_json(data, "tokenizer.json")


def _text_seeds() -> Sequence[bytes]:
    texts = ["What is the main finding in this image?", "x-ray", "<start_of_turn>user\nhi", *mutators.TEXTS]
    return [text.encode("utf-8", "surrogatepass") for text in texts]


@cache
def _tokenizers() -> Any:
    from edgekit.inputs.text import load_tokenizer

    models = (MEDGEMMA, MEDSIGLIP)
    return MappingProxyType({model: load_tokenizer(_source(model) / "tokenizer.json") for model in models})


def _read_text(data: bytes, folder: Path) -> object:
    """A user's question, and a user's label: neither may become a control token."""
    from edgekit.families.composition import ChatSettings
    from edgekit.families.gemma3.chat import GemmaChat
    from edgekit.families.siglip.text import encode_siglip
    from edgekit.inputs.message import Message

    text = data.decode("utf-8", "surrogateescape")
    labels = encode_siglip(_tokenizers()[MEDSIGLIP], [text], 64, 1)
    tokenizer = _tokenizers()[MEDGEMMA]
    settings = ChatSettings(context=8192, stop_token_ids=[1], image_tokens=16, image_token_id=0)
    return labels, GemmaChat(tokenizer, settings).runs([Message("user", text)])


@cache
def _picture_seeds() -> Sequence[bytes]:
    y, x = np.mgrid[0:48, 0:64]
    gray = (127 + 100 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)
    pictures = {"gray": Image.fromarray(gray), "rgb": Image.fromarray(np.stack([gray, 255 - gray, gray[::-1]], -1))}
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("gray", "PNG", {}), ("rgb", "PNG", {}), ("gray", "JPEG", {}), ("rgb", "JPEG", {"progressive": True}),
        ("rgb", "WEBP", {}), ("rgb", "WEBP", {"lossless": True}), ("gray", "TIFF", {}),
        ("rgb", "TIFF", {"compression": "tiff_lzw"}), ("rgb", "TIFF", {"compression": "jpeg"}),
        ("rgb", "TIFF", {"compression": "tiff_deflate"}), ("rgb", "BMP", {}), ("gray", "GIF", {}), ("rgb", "PPM", {}),
    ]  # fmt: skip
    files = []
    for picture, kind, options in ways:
        stream = io.BytesIO()
        pictures[picture].save(stream, kind, **options)
        files.append(stream.getvalue())
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        stream = io.BytesIO()
        wide.save(stream, kind)
        files.append(stream.getvalue())
    frames, other = io.BytesIO(), pictures["gray"].transpose(Image.Transpose.ROTATE_180)
    pictures["gray"].save(frames, "GIF", save_all=True, append_images=[other])
    return [*files, frames.getvalue()]


def _read_picture(data: bytes, folder: Path) -> object:
    from edgekit.inputs.image import read

    return read(_written(data, folder / "picture")).image.size


# ---------------------------------------------------------------- what edgekit keeps


def _journal_seeds() -> Sequence[bytes]:
    outcome = {"task": "labels-phantom", "result": {"predicted": ["nodule"]}, "seconds": 1.5, "error": None}
    return [b"".join(json.dumps({"key": 24 * str(i), "outcome": outcome}).encode() + b"\n" for i in range(3))]


def _read_journal(data: bytes, folder: Path) -> object:
    from edgekit.bench.journal import read

    return read(_written(data, folder / "cells.jsonl"))


# ---------------------------------------------------------------- what users write


def _toml_reader(kind: FileKind, read: Callable[[str], object]) -> Reader:
    def seeds() -> Sequence[bytes]:
        return [find_file(kind, name).read_bytes() for name in names(kind)]

    def tried(data: bytes, folder: Path) -> object:
        return read(str(_written(data, folder / "mine.toml")))

    return Reader(f"{kind} TOML", cache(seeds), mutators.toml(mutators.toml_text), tried)


def _read_recipe(path: str) -> object:
    from edgekit.artifacts.recipes import recipe

    return recipe(path)


def _read_device(path: str) -> object:
    from edgekit.machine.devices import device

    return device(path)


def _read_task(path: str) -> object:
    from edgekit.bench.tasks import task

    return task(path)


def _read_dataset(path: str) -> object:
    from edgekit.bench.datasets import source

    return source(path)


# ---------------------------------------------------------------- all of them

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("safetensors header", cache(_safetensors_seeds), _damaged_header, _read_safetensors, 3),
        *(_checkpoint_reader(MEDGEMMA, file) for file in CHECKPOINT_FILES),
        *(_checkpoint_reader(MEDSIGLIP, file) for file in CHECKPOINT_FILES[:2]),
        Reader("safetensors index", cache(_index_seeds), mutators.json_, _read_index),
        _manifest_reader(MEDGEMMA),
        _manifest_reader(MEDSIGLIP),
        _gguf_reader("decoder"),
        _gguf_reader("vision"),
        Reader("ONNX graph", cache(_onnx_seeds), _damaged_graph, _read_onnx, 3),
        Reader("tokenizer.json", cache(mutators_tokenizer.seeds), mutators_tokenizer.mutate, _read_tokenizer, 5),
        Reader("texts", cache(_text_seeds), mutators.text, _read_text, 4),
        Reader("pictures", _picture_seeds, mutators.bytes_, _read_picture, 4),
        Reader("journal", _journal_seeds, mutators.text, _read_journal),
        _toml_reader("exports", _read_recipe),
        _toml_reader("devices", _read_device),
        _toml_reader("benchmarks", _read_task),
        _toml_reader("benchmarks/datasets", _read_dataset),
    )
}


def shares(inputs: int) -> dict[str, int]:
    """How many of so many inputs each reader gets, by weight, at least one."""
    total = sum(reader.weight for reader in READERS.values())
    return {name: max(1, round(inputs * reader.weight / total)) for name, reader in READERS.items()}
