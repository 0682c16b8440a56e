"""GGUF files as others make them: by llama.cpp's own quantizer, with mixtures and importance matrices of their own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf_files import rewrite

from edgekit.formats.gguf.header import GgufTensor, read_header
from edgekit.formats.gguf.library import library

Rows = np.ndarray[Any, np.dtype[np.float32]]


def quantized(
    source: Path, target: Path, file_type: str, *, mixture: Mapping[str, str] | None = None, important: bool = False
) -> Path:
    """What `llama_model_quantize` makes of a file.

    Args:
        file_type: llama.cpp's name, as gguf.LlamaFileType has it without `MOSTLY_`.
        mixture: pattern of tensors' names -> the type that those get.
        important: with an importance matrix, as low types need and many publishers use.
    """
    lib = library()
    params = lib.llama_model_quantize_default_params()
    names = gguf.LlamaFileType.__members__
    params.ftype = int(names.get(f"MOSTLY_{file_type}", names.get(f"ALL_{file_type}")))
    params.nthread = 2
    overrides = (lib.llama_model_tensor_override * (len(mixture or {}) + 1))()
    for override, (pattern, kind) in zip(overrides, (mixture or {}).items(), strict=False):
        override.pattern, override.type = pattern.encode(), int(gguf.GGMLQuantizationType[kind])
    params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    if important:
        matrix, _kept = _importance(lib, source)
        params.imatrix = ctypes.cast(matrix, type(params.imatrix))
    assert lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    del overrides
    return target


def _importance(lib: Any, source: Path) -> tuple[Any, list[Any]]:
    """Some importance for each column of each matrix, and the memory that it lies in."""
    rng = np.random.default_rng(3)
    matrices = [tensor for tensor in read_header(source).tensors.values() if len(tensor.shape) == 2]
    kept = [np.exp(rng.normal(0, 1, tensor.shape[1])).astype(np.float32) for tensor in matrices]
    made = (lib.llama_model_imatrix_data * (len(matrices) + 1))()
    for entry, tensor, values in zip(made, matrices, kept, strict=False):
        entry.name, entry.size = tensor.name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return made, kept


def changed(
    source: Path,
    target: Path,
    tensors: Mapping[str, Callable[[Rows], Rows]] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Path:
    """A copy with other tensors, each stored as before, and other keys.

    Args:
        tensors: name -> the new numbers, of the old ones.
        fields: as `gguf_files.rewrite` takes them.
    """
    rewrite(source, target, fields=fields)
    stored = read_header(target).tensors
    for name, change in (tensors or {}).items():
        write(target, stored[name], change(read(target, stored[name])))
    return target


def cut(source: Path, target: Path) -> Path:
    """A decoder whose vocabulary ends before the token of pictures, as llama.cpp's converter leaves it.

    The hub's configurations leave out the number of rows, and SentencePiece's model ends there.
    """
    stated = read_header(source).fields
    count = stated["tokenizer.ggml.tokens"].index("<image_soft_token>")
    fields: dict[str, Any] = {"tokenizer.ggml.tokens": stated["tokenizer.ggml.tokens"][:count]}
    for name in ("scores", "token_type"):
        fields[f"tokenizer.ggml.{name}"] = stated[f"tokenizer.ggml.{name}"][:count].tolist()
    return rewrite(source, target, fields=fields, rows={"token_embd.weight": count})


def exchanged(path: Path, one: str, other: str) -> None:
    """Give two tensors of one shape and type each other's numbers."""
    stored = read_header(path).tensors
    first, second = read(path, stored[one]), read(path, stored[other])
    write(path, stored[one], second)
    write(path, stored[other], first)


def read(path: Path, tensor: GgufTensor) -> Rows:
    """A tensor's numbers, by the gguf package."""
    data = np.fromfile(path, np.uint8, tensor.bytes, offset=tensor.offset)
    rows = data.reshape(int(np.prod(tensor.shape[:-1])), -1)
    return np.asarray(gguf.dequantize(rows, _type(tensor)), np.float32).reshape(tensor.shape)


def write(path: Path, tensor: GgufTensor, numbers: Rows) -> None:
    """Store numbers in a tensor's place, by the gguf package."""
    flat = np.ascontiguousarray(numbers, np.float32).reshape(-1, tensor.shape[-1])
    data = gguf.quantize(flat, _type(tensor)).tobytes()
    assert len(data) == tensor.bytes
    with path.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(data)


def _type(tensor: GgufTensor) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[tensor.type]
