"""Where each tensor of a part lies in its data file. A graph refers to it and never sees a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.formats.onnx.codecs import CODECS, OnnxCodec
from edgekit.formats.plan import PartPlan, PlannedTensor

ALIGNMENT = 64  # of tensors in the data file
_TABLES = ("token_embedding", "position")  # read by rows
_AS_STORED = ("projection",)  # lies in the checkpoint as a multiplication takes it
_NOT_STORED = ("scalar",)  # stands in the graph's metadata, and in the manifest's settings

# numpy's type -> TensorProto.DataType
ELEMENTS = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.float16): 10}


@dataclass(frozen=True)
class Initializer:
    """One array in the data file: its ONNX element type, its shape, its place."""

    element: int
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class TensorLayout:
    """One planned tensor in the data file.

    Attributes:
        transposed: whether a matrix lies there as [inputs, outputs].
        arrays: suffix of the initializer's name -> where it lies; in the file's order.
        bytes: of all of them.
    """

    planned: PlannedTensor
    transposed: bool
    arrays: Mapping[str, Initializer]
    bytes: int

    @property
    def codec(self) -> OnnxCodec:
        """The tensor's codec."""
        return CODECS[self.planned.codec.name]


@dataclass(frozen=True)
class Layout:
    """Everything in one data file."""

    file: str
    tensors: Mapping[str, TensorLayout]


def layout_of(file: str, plan: PartPlan) -> Layout:
    """Where each tensor of a part lies, in the checkpoint's order, so that one pass can write them."""
    tensors, offset = {}, 0
    for planned in plan.in_order:
        if is_stored(planned.spec):
            tensors[planned.name] = placed = _placed(planned, offset)
            offset += placed.bytes + -placed.bytes % ALIGNMENT
    return Layout(file, tensors)


def is_stored(spec: TensorSpec) -> bool:
    """Whether a part's data file holds the tensor."""
    return spec.kind not in _NOT_STORED


def is_transposed(spec: TensorSpec, codec: OnnxCodec) -> bool:
    """Whether a tensor lies in the data file as [inputs, outputs]."""
    return codec.transposes and len(spec.shape) == 2 and spec.kind not in (*_TABLES, *_AS_STORED)


def _placed(planned: PlannedTensor, offset: int) -> TensorLayout:
    codec = CODECS[planned.codec.name]
    transposed = is_transposed(planned.spec, codec)
    arrays, end = {}, offset
    for array in codec.arrays(planned.shape, transposed=transposed):
        length = int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
        arrays[array.suffix] = Initializer(ELEMENTS[array.dtype], array.shape, end, length)
        end += length
    return TensorLayout(planned, transposed, arrays, end - offset)
