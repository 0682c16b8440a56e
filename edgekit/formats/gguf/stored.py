"""The tensors of a GGUF file, dequantized slice by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import ArtifactError
from edgekit.formats.codec import Float
from edgekit.formats.gguf.codecs import CODECS, dequantize
from edgekit.formats.gguf.form import GgufForm, GgufTensorForm, read_checked
from edgekit.formats.gguf.header import GgufHeader, GgufTensor
from edgekit.formats.gguf.roundings import ROUNDINGS
from edgekit.formats.stored import StoredTensor, check_names, wrong_shape

_PIECE = 1 << 24  # bytes that are compared at a time


def stored(
    specs: Sequence[TensorSpec], form: GgufForm, config: Any, files: Sequence[Path]
) -> Mapping[str, StoredTensor]:
    """The tensors of a part's file by canonical name; see `edgekit.formats.base.Format.stored`."""
    header = read_checked(form, files[0])
    forms = form.tensors(config)
    if form.renamed:
        forms = {name: form.renamed(header, one) for name, one in forms.items()}
    copies = {name for name, other in form.copies.items() if _repeats(header, name, other)}
    check_names(header.path, header.tensors.keys() - copies, {forms[spec.name].name: spec for spec in specs})
    return {
        spec.name: _stored(header.path, header.tensors[forms[spec.name].name], spec, forms[spec.name]) for spec in specs
    }


def _repeats(header: GgufHeader, name: str, other: str) -> bool:
    """Whether a tensor is there that is another one's copy, byte for byte."""
    copy, original = (header.tensors.get(one) for one in (name, other))
    if not copy or not original or (copy.type, copy.shape) != (original.type, original.shape):
        return False
    with header.path.open("rb") as stream:
        for start in range(0, copy.bytes, _PIECE):
            pieces = []
            for tensor in (copy, original):
                stream.seek(tensor.offset + start)
                pieces.append(stream.read(min(_PIECE, tensor.bytes - start)))
            if pieces[0] != pieces[1]:
                return False
    return True


def _stored(path: Path, tensor: GgufTensor, spec: TensorSpec, form: GgufTensorForm) -> StoredTensor:
    if tensor.type not in ROUNDINGS:
        raise ArtifactError(f"{path}: {tensor.name} is stored as {tensor.type}", allowed=", ".join(ROUNDINGS))
    shape = spec.shape
    if spec.kind == "token_embedding" and tensor.shape[0] < shape[0]:
        shape = (tensor.shape[0], *shape[1:])  # llama.cpp's converter cuts off rows behind the last token
    filled = tuple(max(have, want) if axis == spec.padded else want
                   for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=False)))  # fmt: skip
    if tensor.shape != filled:
        raise wrong_shape(path, tensor.name, tensor.shape, spec.shape)
    row_weights, row_bytes = math.prod(tensor.shape[1:]), tensor.bytes // tensor.shape[0]

    def rows(first: int, last: int) -> Float:
        with path.open("rb") as stream:
            stream.seek(tensor.offset + first * row_bytes)
            data = stream.read((last - first) * row_bytes)
        if len(data) != (last - first) * row_bytes:
            raise ArtifactError(f"{path}: the file ends inside {tensor.name}")
        return dequantize(data, tensor.type, (last - first) * row_weights).reshape(last - first, *tensor.shape[1:])

    def read(first: int, last: int) -> Float:
        found = rows(first, last)
        # Further columns multiply what further rows of the matrix before them made, which is nothing.
        found = found[tuple(slice(size) for size in (last - first, *spec.shape[1:]))]
        if last == spec.shape[0] < tensor.shape[0] and rows(last, tensor.shape[0]).any():
            raise ArtifactError(f"{path}: {tensor.name}: what fills it up to {tensor.shape[0]} rows is not zero")
        if form.scale != 1:
            found = found / np.float32(form.scale)
        return found - np.float32(1) if spec.add_one else found

    codec = CODECS.get(tensor.type)
    return StoredTensor(
        spec.name,
        tensor.name,
        tensor.type,
        shape,
        codec is not None and codec.exact,
        codec.preserves if codec else frozenset(),
        ROUNDINGS[tensor.type],
        read,
    )
