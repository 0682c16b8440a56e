"""Write parts as ONNX files: the graphs, which hold no weights, and one pass over the checkpoint for all data files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Slice
from edgekit.errors import CheckpointError
from edgekit.export import stream
from edgekit.export.plan import PartPlan
from edgekit.families.gemma3 import graph as gemma_graph
from edgekit.families.siglip import graph as siglip_graph
from edgekit.formats.onnx.graph import ALIGNMENT, Graph, Laid, Layout, encode, lay_out
from edgekit.progress import Progress

Build = Callable[[Graph], None]


@dataclass(frozen=True)
class Files:
    """Where a part goes: its graphs in the order of `GRAPHS`, and the data file that they share."""

    graphs: tuple[Path, ...]
    data: Path


# What each part's graphs compute; a part's files are named in its family.
GRAPHS: Mapping[str, tuple[Build, ...]] = {
    "image_encoder": (siglip_graph.image_encoder,),
    "text_encoder": (siglip_graph.text_encoder,),
    "vision": (siglip_graph.gemma_vision,),
    "decoder": (gemma_graph.decoder, gemma_graph.embed_tokens),
}


def write(parts: Sequence[tuple[PartPlan, Files]], progress: Progress) -> dict[Path, tuple[str, int]]:
    """Write parts of one checkpoint.

    Args:
        parts: calibrated, where their levels need that. A data file that an interrupted call left is continued.

    Returns:
        SHA-256 and length of each data file.

    Raises:
        CheckpointError: a weight cannot be stored at this level.
    """
    layouts = [lay_out(files.data.name, plan) for plan, files in parts]
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(
                stream.Output(files.data, b"", [section(plan, laid) for laid in layout.tensors.values()])
            )
            for (plan, files), layout in zip(parts, layouts, strict=True)
        ]
        stream.write(parts[0][0].checkpoint, outputs, progress)
    for (plan, files), layout in zip(parts, layouts, strict=True):
        for path, build in zip(files.graphs, GRAPHS[plan.role], strict=True):
            path.write_bytes(graph_of(build, path.stem, plan, layout))
    return {output.path: output.finish() for output in outputs}


def graph_of(build: Build, name: str, plan: PartPlan, layout: Layout) -> bytes:
    """One graph of a part, serialized; the data file that it refers to need not exist."""
    graph = Graph(name, plan, layout)
    build(graph)
    return graph.model()


def section(plan: PartPlan, laid: Laid) -> stream.Section:
    """How one tensor becomes its bytes in the data file, slice by slice."""
    planned, turned = laid.planned, laid.turned
    slot, codec = planned.slot, planned.codec

    def rows_of(piece: Slice) -> tuple[Any, Any]:
        rows = piece.float32()
        if slot.add_one:
            rows = rows + np.float32(1)
        rows = plan.prepared(slot.name, rows, piece.start)
        flat = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 1 else rows[None]
        try:
            return encode(flat, codec)
        except CheckpointError as error:
            raise CheckpointError(
                f"{planned.tensor.path}: {piece.name}: {error.message}", allowed=error.allowed, remedy=error.remedy
            ) from error

    def encode_slice(piece: Slice) -> tuple[stream.Encoded, Any]:
        values, scales = rows_of(piece)
        return (b"", (values, scales)) if turned else (values, (None, scales))

    def tail() -> _Tail:
        item = np.float16 if codec == "float16" else np.int8 if codec == "int8" else np.float32
        return _Tail(np.empty(planned.shape[::-1], item) if turned else None)

    form = (codec, turned, slot.add_one, plan.key if slot.name in plan.factors else None)
    padding = -laid.bytes % ALIGNMENT
    return stream.Section(planned.tensor.name, planned.tensor.size, form, encode_slice, laid.bytes, padding, tail)


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

    def chunks(self) -> list[stream.Encoded]:
        """The matrix and the scales, those of them that there are."""
        return [chunk for chunk in (self._matrix, np.concatenate(self._scales)) if chunk is not None and chunk.size]
