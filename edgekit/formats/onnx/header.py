"""Read an ONNX file with bounds, so that no library meets a file that lies about itself.

What is read: which operators of which versions a graph uses, what goes in and comes out, and every tensor with where
its data lies. Weights themselves are not touched. Everything a file states is checked against limits, its size or the
sizes of the files beside it. The messages are described in onnx's `onnx.proto`.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.data_files import DataFiles
from edgekit.formats.onnx.model import (
    DOUBLES,
    FLOATS,
    INT32S,
    INT64S,
    RAW,
    STRINGS,
    TYPES,
    UINT64S,
    OnnxHeader,
    OnnxTensor,
    OnnxValue,
    Visitor,
)
from edgekit.formats.onnx.nodes import DOMAINS, MAX_NAME_BYTES, NodeReader, domain_of
from edgekit.formats.onnx.wire import MessageShape, Span, Wire, WireReader, signed

__all__ = ["DOMAINS", "MAX_BYTES", "TYPES", "OnnxHeader", "OnnxTensor", "OnnxValue", "read"]

MAX_BYTES = 256 * 1024 * 1024  # weights lie outside; protobuf itself ends at 2 GB
_MAX_FIELDS = 1_000_000  # some two seconds; a graph has about 1,000 a layer
_MAX_TENSORS = 16_384
_MAX_VALUES = 1024  # inputs or outputs of the graph
_MAX_DIMENSIONS = 32
_MAX_DEPTH = 8  # graphs within graphs
_MAX_METADATA = 256
_MAX_METADATA_BYTES = 1 << 20
_MAX_INT64 = (1 << 63) - 1

_V, _L = Wire.VARINT, Wire.LEN
_MODEL = MessageShape("ModelProto", once={1: _V, 7: _L}, many={8: _L, 14: _L, 20: _L, 25: _L})
_OPSET = MessageShape("OperatorSetIdProto", once={1: _L, 2: _V})
_PAIR = MessageShape("StringStringEntryProto", once={1: _L, 2: _L})
_GRAPH = MessageShape("GraphProto", many={1: _L, 5: _L, 11: _L, 12: _L, 15: _L})
_TENSOR = MessageShape(
    "TensorProto",
    once={2: _V, 3: _L, 8: _L, RAW: _L, 14: _V},
    many={1: _V, FLOATS: Wire.I32, INT32S: _V, STRINGS: _L, INT64S: _V, DOUBLES: Wire.I64, UINT64S: _V, 13: _L},
)
_VALUE = MessageShape("ValueInfoProto", once={1: _L, 2: _L})
_TYPE = MessageShape("TypeProto", once=dict.fromkeys((1, 4, 5, 7, 8, 9), _L))  # one of them; 1 is a tensor
_TENSOR_TYPE = MessageShape("TypeProto.Tensor", once={1: _V, 2: _L})
_SHAPE = MessageShape("TensorShapeProto", many={1: _L})
_DIMENSION = MessageShape("TensorShapeProto.Dimension", once={1: _V, 2: _L})


def read(path: Path, listed: Collection[Path] | None = None, visitor: Visitor | None = None) -> OnnxHeader:
    """Read and check an ONNX file and where its external data lies.

    Args:
        listed: the files whose SHA-256 the caller compared with a manifest: external data may lie in these only, and
            they may be hard links. None where there is no manifest.
        visitor: is shown the graph.

    Raises:
        ArtifactError: the file is no ONNX file, is cut off, contradicts itself, or points at data that it must not.
    """
    # Libraries go by the name: what is called otherwise would meet another parser than what is checked here is for.
    if path.suffix != ".onnx":
        raise ArtifactError(f"{path}: the name of an ONNX file ends in {path.suffix!r:.40}", allowed=".onnx")
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: is no regular file", allowed="an .onnx file")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if not 0 < size <= MAX_BYTES:
                raise ArtifactError(
                    f"{path}: {size} bytes are no ONNX graph",
                    allowed=f"1 to {MAX_BYTES} bytes",
                    remedy="store the weights as external data" if size else "download or export the file again",
                )
            with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, DataFiles(path, listed), visitor).header()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """What has been read of a file so far."""

    def __init__(self, path: Path, data: mmap.mmap, files: DataFiles, visitor: Visitor | None) -> None:
        self._path, self._end, self._files, self._visitor = path, len(data), files, visitor
        self._wire = WireReader(data, self._wrong, _MAX_FIELDS)
        self._nodes = NodeReader(self._wire, self._wrong, visitor is not None)
        self._tensors: list[OnnxTensor] = []
        self._values: dict[int, list[OnnxValue]] = {11: [], 12: []}

    def header(self) -> OnnxHeader:
        fields: dict[int, Any] = {}
        opsets: dict[str, int] = {}
        metadata: dict[str, str] = {}
        for number, value in self._wire.fields(_MODEL, (0, self._end)):
            if number == 8:
                self._opset(value, opsets)
            elif number == 14:
                self._pair(value, metadata, "metadata", _MAX_METADATA, _MAX_METADATA_BYTES)
            elif number in (20, 25):
                kind = "training information" if number == 20 else "functions of its own"
                raise self._wrong(f"holds {kind}", "a graph for inference, of operators only")
            else:
                fields[number] = value
        if 1 not in fields or 7 not in fields:
            raise self._wrong(f"has no {'graph' if 1 in fields else 'ir_version'}: no ONNX file")
        self._graph(fields[7], depth=1)
        self._check_operators(opsets)
        return OnnxHeader(
            path=self._path,
            ir_version=self._within(signed(fields[1]), "ir_version"),
            opsets=opsets,
            operators=frozenset(self._nodes.operators),
            inputs=tuple(self._values[11]),
            outputs=tuple(self._values[12]),
            tensors=tuple(self._tensors),
            metadata=metadata,
        )

    def _wrong(self, what: str, allowed: str | None = None) -> ArtifactError:
        return ArtifactError(f"{self._path}: {what}", allowed=allowed, remedy="download or export the file again")

    def _within(self, number: int, what: str, least: int = 1, most: int = (1 << 31) - 1) -> int:
        if not least <= number <= most:
            raise self._wrong(f"{what} is {number}", f"{least} to {most}")
        return number

    def _name(self, span: Span, what: str) -> str:
        return self._wire.text(span, what, MAX_NAME_BYTES)

    def _opset(self, span: Span, opsets: dict[str, int]) -> None:
        fields = dict(self._wire.fields(_OPSET, span))
        domain = domain_of(self._name(fields[1], "an operator domain") if 1 in fields else "")
        if domain in opsets:
            raise self._wrong(f"the operator domain {domain!r:.60} stands twice")
        if len(opsets) >= _MAX_METADATA:
            raise self._wrong("too many operator domains", f"at most {_MAX_METADATA}")
        opsets[domain] = self._within(signed(fields.get(2, 0)), f"the opset of {domain!r:.60}")

    def _pair(self, span: Span, pairs: dict[str, str], what: str, count: int, limit: int) -> None:
        fields = dict(self._wire.fields(_PAIR, span))
        key = self._name(fields.get(1, (0, 0)), f"a key in {what}")
        if key in pairs or len(pairs) >= count:
            raise self._wrong(f"{what}: the key {key!r:.60} stands twice or is one too many", f"{count} keys")
        pairs[key] = self._wire.text(fields.get(2, (0, 0)), f"{what} {key!r:.60}", limit)

    def _graph(self, span: Span, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._wrong(f"graphs nested {depth} deep", f"at most {_MAX_DEPTH}")
        names: set[str] = set()
        for number, value in self._wire.fields(_GRAPH, span):
            if number == 5:
                name = self._tensor(value, "an initializer").name
                if not name or name in names:
                    raise self._wrong(f"the initializer {name!r:.100} has no name or stands twice")
                names.add(name)
            elif number == 15:
                raise self._wrong("holds a sparse tensor", "dense tensors")
            elif number != 1 and depth == 1:
                self._value(value, number)
        if depth == 1 and self._visitor:
            self._visitor.begin(self._values[11], self._tensors)
        for number, value in self._wire.fields(_GRAPH, span):  # nodes stand first, and speak of all the rest
            if number == 1:
                self._node(value, depth)

    def _node(self, span: Span, depth: int) -> None:
        """A node, and what lies in its attributes."""

        def inner(number: int, value: Span, owner: str) -> None:
            if number in (5, 10):
                self._tensor(value, owner)
            else:
                self._graph(value, depth + 1)

        node = self._nodes.read(span, inner)
        if depth == 1 and self._visitor:
            self._visitor.node(node)

    def _value(self, span: Span, number: int) -> None:
        """An input (11) or output (12) of the graph."""
        fields = dict(self._wire.fields(_VALUE, span))
        name = self._name(fields.get(1, (0, 0)), "an input's or output's name")
        kind = dict(self._wire.fields(_TYPE, fields.get(2, (0, 0))))
        if set(kind) != {1}:
            raise self._wrong(f"{name!r:.100} is no tensor", "inputs and outputs that are tensors")
        tensor = dict(self._wire.fields(_TENSOR_TYPE, kind[1]))
        shape: list[int | str | None] = []
        for _, side in self._wire.fields(_SHAPE, tensor.get(2, (0, 0))):
            self._within(len(shape) + 1, f"the number of sides of {name!r:.100}", 0, _MAX_DIMENSIONS)
            said = dict(self._wire.fields(_DIMENSION, side))
            if len(said) > 1:
                raise self._wrong(f"a side of {name!r:.100} has a number and a name", "one of them")
            size = self._within(signed(said[1]), f"a side of {name!r:.100}", 0, _MAX_INT64) if 1 in said else None
            shape.append(self._name(said[2], "a side's name") if 2 in said else size)
        there = self._values[number]
        self._within(len(there) + 1, "the number of inputs or outputs", 0, _MAX_VALUES)
        there.append(OnnxValue(name, self._type(tensor.get(1, 0), name)[0], tuple(shape) if 2 in tensor else None))

    def _type(self, number: int, name: str) -> tuple[str, int, int]:
        if number not in TYPES:
            raise self._wrong(
                f"{name!r:.100} has the data type {signed(number)}", f"{min(TYPES)} ({TYPES[1][0]}) to {max(TYPES)}"
            )
        return TYPES[number]

    def _tensor(self, span: Span, owner: str) -> OnnxTensor:
        fields: dict[int, Any] = {}
        shape: list[int] = []
        numbers: Counter[int] = Counter()
        external: dict[str, str] = {}
        for number, value in self._wire.fields(_TENSOR, span):
            if number == 1:
                for side in self._wire.integers(value, owner) if isinstance(value, tuple) else (signed(value),):
                    self._within(len(shape) + 1, f"the number of dimensions of {owner}", 0, _MAX_DIMENSIONS)
                    shape.append(side)
            elif number == 13:
                self._pair(value, external, f"external data of {owner}", 8, MAX_NAME_BYTES)
            elif number in _TENSOR.many:
                wire = _TENSOR.many[number]
                packed = isinstance(value, tuple) and wire == _V
                numbers[number] += self._wire.count(wire, value) if packed or wire in (Wire.I32, Wire.I64) else 1
            else:
                fields[number] = value
        name = self._name(fields.get(8, (0, 0)), f"the name of {owner}")
        tensor = replace(self._stored(name or owner, shape, fields, numbers, external), name=name)
        if len(self._tensors) >= _MAX_TENSORS:
            raise self._wrong("too many tensors", f"at most {_MAX_TENSORS}")
        self._tensors.append(tensor)
        return tensor

    def _stored(
        self,
        name: str,
        shape: list[int],
        fields: dict[int, Any],
        numbers: Counter[int],
        external: dict[str, str],
    ) -> OnnxTensor:
        """A tensor whose data, wherever it is, has the size of its shape."""
        kind, bits, field = self._type(fields.get(2, 0), name)
        if min(shape, default=0) < 0 or math.prod(max(side, 1) for side in shape) * max(bits, 8) > _MAX_INT64:
            raise self._wrong(f"tensor {name!r:.100} has the shape {shape}", "sides of 0 or more, less than 2^60 bytes")
        count = math.prod(shape)
        size = -(-count * bits // 8)
        places = [*(numbers), *([RAW] if RAW in fields else []), *([13] if external else [])]
        where = signed(fields.get(14, 0))
        if 3 in fields or len(places) > 1 or where not in (0, 1) or (where == 1) != bool(external):
            raise self._wrong(f"tensor {name!r:.100} is not clear about where its data lies", "one place")
        if external:
            if kind == "STRING":
                raise self._wrong(f"tensor {name!r:.100} has strings in external data", "strings in the graph")
            path, offset = self._files.place(name, external, size)
            return OnnxTensor(name, kind, tuple(shape), size, path, offset)
        if RAW in fields and kind != "STRING":
            there = fields[RAW][1] - fields[RAW][0]
            if there != size:
                raise self._wrong(f"tensor {name!r:.100} has {there} bytes", f"{size}: {kind} {shape}")
        else:
            # Complex numbers are two, numbers of less than a byte share one.
            need = 2 * count if "COMPLEX" in kind else size if 0 < bits < 8 else count
            if (places or [field]) != [field] or numbers[field] != need:
                raise self._wrong(f"tensor {name!r:.100} has {numbers[field]} numbers", f"{need}: {kind} {shape}")
        return OnnxTensor(name, kind, tuple(shape), size)

    def _check_operators(self, opsets: Mapping[str, int]) -> None:
        for domain in sorted({domain for domain, _ in self._nodes.operators}):
            if domain not in opsets:
                raise self._wrong(f"uses operators of {domain or 'ai.onnx'!r} and names no opset of it")
