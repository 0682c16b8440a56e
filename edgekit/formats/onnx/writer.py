"""A part as ONNX files: the graphs, which hold no weights, and one data file for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.files import create
from edgekit.artifacts.levels import Level
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import Slice
from edgekit.errors import CheckpointError
from edgekit.formats import calibration
from edgekit.formats.label import FileLabel
from edgekit.formats.onnx import header, requirements
from edgekit.formats.onnx.form import Build, OnnxForm
from edgekit.formats.onnx.graph import Graph
from edgekit.formats.onnx.layout import ALIGNMENT, Layout, TensorLayout, is_stored, layout_of
from edgekit.formats.plan import PartPlan
from edgekit.formats.sections import EncodedBytes, FileContent, Section

_FOLDER = "onnx"
_PLAIN = "fp32"  # the level without a suffix, as Transformers.js has it


def codec_of(spec: TensorSpec, level: Level) -> str:
    """The codec that a tensor gets at a level; what must stay precise is float32."""
    return "float32" if spec.keep else level.codec_of(spec.kind, spec.position)


def suffix(level: Level) -> str:
    """What Transformers.js appends to a file's stem."""
    return "" if level.name == _PLAIN else f"_{level.name}"


def file_names(plan: PartPlan, stem: str) -> tuple[str, ...]:
    """The first graph, the data file, what calibration measured, and the other graphs."""
    form: OnnxForm = plan.form
    first, *others = (f"{_FOLDER}/{name}{suffix(plan.level)}.onnx" for name in form.graphs)
    measured = (calibration_file(plan, stem),) if plan.level.needs_calibration else ()
    return first, f"{first}_data", *measured, *others


def calibration_file(plan: PartPlan, stem: str) -> str:
    """What was measured for a part that quantizes activations by measured ranges, relative to the artifact."""
    return f"{_FOLDER}/{next(iter(plan.form.graphs))}{suffix(plan.level)}{calibration.SUFFIX}"


def requires(plan: PartPlan, folder: Path, stem: str) -> dict[str, Any]:
    """What a runtime must offer to open the part's graphs."""
    graphs = [folder / name for name in file_names(plan, stem) if name.endswith(".onnx")]
    return requirements.requires([header.read(path) for path in graphs])


def content(plan: PartPlan, folder: Path, label: FileLabel) -> FileContent:
    """The data file."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    path = folder / file_names(plan, label.stem)[1]
    tensors = layout_of(path.name, plan).tensors.values()
    return FileContent(path, b"", tuple(section_of(plan, tensor) for tensor in tensors))


def write_graphs(plan: PartPlan, folder: Path, label: FileLabel) -> None:
    """The graphs, whose data file is complete."""
    names = file_names(plan, label.stem)
    layout = layout_of(Path(names[1]).name, plan)
    for name, build in zip((name for name in names if name.endswith(".onnx")), plan.form.graphs.values(), strict=True):
        path = folder / name
        with create(path) as file:
            file.write(graph_of(build, path.stem, plan, layout))


def graph_of(build: Build, name: str, plan: PartPlan, layout: Layout) -> bytes:
    """One graph of a part, serialized; the data file that it refers to need not exist."""
    ranges = plan.calibration.ranges if plan.calibration else {}
    graph = Graph(name, layout, plan.level.activations, ranges)
    build(graph, plan.config)
    scalars = [planned for planned in plan.tensors if not is_stored(planned.spec)]
    return graph.model({one.spec.name: float(plan.checkpoint.read(one.tensor).ravel()[0]) for one in scalars})


def section_of(plan: PartPlan, tensor: TensorLayout) -> Section:
    """How one tensor of a part is encoded, slice by slice."""
    planned, codec, transposed = tensor.planned, tensor.codec, tensor.transposed
    spec = planned.spec

    def rows_of(piece: Slice) -> tuple[Any, Any]:
        rows = piece.float32()
        if spec.add_one:
            rows = rows + np.float32(1)
        rows = plan.prepared(spec.name, rows, piece.start)
        flat = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 1 else rows[None]
        try:
            return codec.encode(flat)
        except CheckpointError as error:
            raise CheckpointError(
                f"{planned.tensor.path}: {piece.name}: {error.message}", allowed=error.allowed, remedy=error.remedy
            ) from error

    def encode(piece: Slice) -> tuple[EncodedBytes, Any]:
        values, scales = rows_of(piece)
        return (b"", (values, scales)) if transposed else (values, (None, scales))

    def tail() -> _Tail:
        first = codec.arrays(planned.shape, transposed=True)[0]
        return _Tail(np.empty(first.shape, first.dtype) if transposed else None)

    form = (codec.name, transposed, spec.add_one, plan.key if spec.name in plan.factors else None)
    padding = -tensor.bytes % ALIGNMENT
    return Section(planned.tensor.name, planned.tensor.size, form, encode, tensor.bytes, padding, tail)


class _Tail:
    """Scales, behind the matrix where that lies as [inputs, outputs]: each slice of rows fills columns of it."""

    def __init__(self, matrix: NDArray[Any] | None) -> None:
        self._matrix, self._columns = matrix, 0
        self._scales: list[Any] = []

    def add(self, kept: tuple[Any, Any]) -> None:
        """Rows [n, bytes per row], None where they are in the file already, and their scales."""
        values, scales = kept
        if self._matrix is not None:
            rows = values.view(self._matrix.dtype)
            self._matrix[:, self._columns : self._columns + len(rows)] = rows.T
            self._columns += len(rows)
        self._scales.append(scales.ravel())

    def chunks(self) -> list[EncodedBytes]:
        """The matrix and the scales, those of them that there are."""
        return [chunk for chunk in (self._matrix, np.concatenate(self._scales)) if chunk is not None and chunk.size]
