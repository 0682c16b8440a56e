"""What an ONNX file says, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FLOATS, INT32S, STRINGS, INT64S, DOUBLES, UINT64S, RAW = 4, 5, 6, 7, 10, 11, 9  # fields of a TensorProto
# TensorProto.DataType -> its name, the bits of one number, and the field that may hold numbers in place of raw_data.
TYPES: Mapping[int, tuple[str, int, int]] = {
    1: ("FLOAT", 32, FLOATS), 2: ("UINT8", 8, INT32S), 3: ("INT8", 8, INT32S), 4: ("UINT16", 16, INT32S),
    5: ("INT16", 16, INT32S), 6: ("INT32", 32, INT32S), 7: ("INT64", 64, INT64S), 8: ("STRING", 0, STRINGS),
    9: ("BOOL", 8, INT32S), 10: ("FLOAT16", 16, INT32S), 11: ("DOUBLE", 64, DOUBLES), 12: ("UINT32", 32, UINT64S),
    13: ("UINT64", 64, UINT64S), 14: ("COMPLEX64", 64, FLOATS), 15: ("COMPLEX128", 128, DOUBLES),
    16: ("BFLOAT16", 16, INT32S), 17: ("FLOAT8E4M3FN", 8, INT32S), 18: ("FLOAT8E4M3FNUZ", 8, INT32S),
    19: ("FLOAT8E5M2", 8, INT32S), 20: ("FLOAT8E5M2FNUZ", 8, INT32S), 21: ("UINT4", 4, INT32S),
    22: ("INT4", 4, INT32S), 23: ("FLOAT4E2M1", 4, INT32S), 24: ("FLOAT8E8M0", 8, INT32S),
    25: ("UINT2", 2, INT32S), 26: ("INT2", 2, INT32S),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """An input or an output of the graph.

    Attributes:
        type: a name from `TYPES`.
        shape: sides by number or by name, None for one that is not said; None where nothing is said of the shape.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An initializer, or a tensor in a node's attribute.

    Attributes:
        name: may be empty for an attribute's.
        type: a name from `TYPES`.
        bytes: that its data takes; 0 for strings.
        file: the data file, None for a tensor that lies in the graph.
        offset: of the data in that file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    file: Path | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operator in a graph.

    Attributes:
        attributes: name -> the number of its type (`AttributeProto.AttributeType`), and a number, several, or a text;
            None for what is none of them.
    """

    domain: str
    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, tuple[int, int | float | str | tuple[int, ...] | None]]


class Visitor(Protocol):
    """Who is shown a graph node by node, none of which is kept: one has thousands."""

    def begin(self, inputs: Sequence[OnnxValue], tensors: Sequence[OnnxTensor]) -> None:
        """The graph's inputs and its initializers."""
        ...

    def node(self, node: OnnxNode) -> None:
        """The nodes, in the file's order; not those of graphs within them."""
        ...


@dataclass(frozen=True)
class OnnxHeader:
    """What an ONNX file says about itself, checked.

    Attributes:
        opsets: operator domain -> version.
        operators: domain and name of every operator used, also in graphs within the graph.
    """

    path: Path
    ir_version: int
    opsets: Mapping[str, int]
    operators: frozenset[tuple[str, str]]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    tensors: tuple[OnnxTensor, ...]
    metadata: Mapping[str, str]

    @property
    def external(self) -> tuple[OnnxTensor, ...]:
        """The tensors whose data lies in files beside the graph."""
        return tuple(tensor for tensor in self.tensors if tensor.file)

    @property
    def domains(self) -> tuple[str, ...]:
        """The operator domains in use, "" first."""
        return tuple(sorted({domain for domain, _ in self.operators}))
