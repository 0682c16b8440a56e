"""A model with its weights inside, so that one file is all there is to carry, written without holding them in memory.

A message of protobuf is its fields one behind the other, so the weights are copied out of the part's data file between
a graph that holds none and the file's end, and metadata can be added behind that. What edgekit's own reader takes for
no graph any more, and what phones would hold twice in memory, keeps its weights beside it, as `NAME.onnx_data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.artifacts.files import create
from edgekit.errors import ArtifactError
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.header import MAX_BYTES
from edgekit.formats.onnx.layout import ALIGNMENT
from edgekit.formats.onnx.model import RAW, OnnxTensor

DATA = "_data"  # what the name of a file of weights ends in, behind the model's
_GRAPH, _METADATA, _INITIALIZER = 7, 14, 5  # fields of ModelProto, ModelProto and GraphProto
_EXTERNAL = 1  # TensorProto.DataLocation
_BLOCK_BYTES = 1 << 22
_SPARE_BYTES = 8 << 20  # of a file within the reader's limit, for its graph and metadata


def write(model: Any, places: Mapping[str, OnnxTensor], target: Path) -> tuple[Path, ...]:
    """Write a model; the files that it is then.

    Args:
        model: an `onnx.ModelProto`, which is changed.
        places: name -> where the data of a tensor lies that is not in the model.

    Raises:
        ArtifactError: a data file ends too soon.
    """
    outside = [places[tensor.name] for tensor in model.graph.initializer if tensor.data_location == _EXTERNAL]
    if sum(place.bytes for place in outside) > MAX_BYTES - _SPARE_BYTES:
        return _beside(model, outside, target)
    inside = [tensor for tensor in model.graph.initializer if tensor.data_location != _EXTERNAL]
    heads = [_bare(tensor) for tensor in model.graph.initializer if tensor.data_location == _EXTERNAL]
    sizes = [len(head) + len(_key(RAW, place.bytes)) + place.bytes for head, place in zip(heads, outside, strict=True)]
    graph = onnx().GraphProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    graph.initializer.extend(inside)
    model.ClearField("graph")
    rest, whole = graph.SerializeToString(deterministic=True), model.SerializeToString(deterministic=True)
    length = len(rest) + sum(len(_key(_INITIALIZER, size)) + size for size in sizes)
    with create(target) as file:
        file.write(whole + _key(_GRAPH, length) + rest)
        for head, size, place in zip(heads, sizes, outside, strict=True):
            file.write(_key(_INITIALIZER, size) + head + _key(RAW, place.bytes))
            _copy(place, file)
    return (target,)


def _beside(model: Any, outside: Sequence[OnnxTensor], target: Path) -> tuple[Path, ...]:
    """The same with the weights in a file of their own."""
    data = target.with_name(target.name + DATA)
    places = {}
    with create(data) as file:
        for place in outside:
            file.write(bytes(-file.tell() % ALIGNMENT))
            places[place.name] = file.tell()
            _copy(place, file)
    for tensor in model.graph.initializer:
        if tensor.data_location == _EXTERNAL:
            length = next(place.bytes for place in outside if place.name == tensor.name)
            stated = {"location": data.name, "offset": places[tensor.name], "length": length}
            del tensor.external_data[:]
            for key, value in stated.items():
                tensor.external_data.add(key=key, value=str(value))
    with create(target) as file:
        file.write(model.SerializeToString(deterministic=True))
    return target, data


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add entries behind the end of a model's file, which has none of these keys."""
    with path.open("ab") as file:
        for key, value in entries.items():
            entry = onnx().StringStringEntryProto(key=key, value=value).SerializeToString(deterministic=True)
            file.write(_key(_METADATA, len(entry)) + entry)


def _bare(tensor: Any) -> bytes:
    """A tensor's message without its data."""
    bare = onnx().TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bytes(bare.SerializeToString(deterministic=True))


def _copy(place: OnnxTensor, target: BinaryIO) -> None:
    assert place.file, "a tensor outside of the model"
    with place.file.open("rb") as source:
        source.seek(place.offset)
        left = place.bytes
        while left:
            block = source.read(min(left, _BLOCK_BYTES))
            if not block:
                raise ArtifactError(f"{place.file}: ends before byte {place.offset + place.bytes}")
            target.write(block)
            left -= len(block)


def _key(field: int, length: int) -> bytes:
    """What stands before a field of bytes: its number, that it is of bytes, and how many."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
