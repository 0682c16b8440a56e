"""What a part's ONNX files hold beside its tensors, in bytes: graphs, what calibration measured, padding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgekit.formats.calibration import Range
from edgekit.formats.onnx.form import OnnxForm
from edgekit.formats.onnx.graph import Graph
from edgekit.formats.onnx.layout import ALIGNMENT, is_stored, layout_of
from edgekit.formats.onnx.writer import file_names
from edgekit.formats.plan import PartPlan

_SCALAR_BYTES = 60  # a number in a graph's metadata, and its name
_NODE_BYTES = 400  # of a graph for each tensor, where `onnx` is not here to make it
# Calibration's JSON: two limits with 17 digits, and of each channel an exponent with a comma, some with a sign.
_RANGE_BYTES, _CHANNEL_BYTES, _REST_BYTES = 60, 2.1, 150


def beside(plan: PartPlan, stem: str) -> int:
    """Graphs are built as an export builds them, with made-up ranges where calibration would measure some."""
    layout = layout_of(Path(file_names(plan, stem)[1]).name, plan)
    padding = sum(-tensor.bytes % ALIGNMENT for tensor in layout.tensors.values())
    if importlib.util.find_spec("onnx") is None:
        return padding + _calibration_bytes(plan) + _NODE_BYTES * len(plan.tensors)
    form: OnnxForm = plan.form
    ranges = _made_up_ranges(plan)
    graphs = [name for name in file_names(plan, stem) if name.endswith(".onnx")]
    size = padding + _calibration_bytes(plan)
    for name, build in zip(graphs, form.graphs.values(), strict=True):
        graph = Graph(Path(name).stem, layout, plan.level.activations, ranges)
        build(graph, plan.config)
        size += len(graph.model({})) + _SCALAR_BYTES * sum(not is_stored(planned.spec) for planned in plan.tensors)
    return size


def _made_up_ranges(plan: PartPlan) -> dict[str, Range]:
    """What reads one activation has one range, and in a graph one node that rounds it."""
    read = {p.name: p.spec.follows[0] if p.spec.follows else p.name for p in plan.tensors if p.name in plan.ranged}
    places = {source: place for place, source in enumerate(sorted(set(read.values())))}
    return {name: Range(-1.0 - places[source] / 7, 2.0 + places[source] / 3) for name, source in read.items()}


def _calibration_bytes(plan: PartPlan) -> int:
    """Of the file of a level whose ranges are measured; nothing of others."""
    if not plan.level.needs_calibration:
        return 0
    # What only matrices of floats read is not smoothed (`edgekit.export.smooth`).
    read = (planned for planned in plan.tensors if planned.spec.follows and planned.name in plan.ranged)
    channels = {planned.spec.follows[0]: planned.shape[-1] for planned in read}
    ranges = sum(len(name) + _RANGE_BYTES for name in plan.ranged)
    smoothed = sum(len(name) + _CHANNEL_BYTES * width for name, width in channels.items())
    return round(_REST_BYTES + ranges + smoothed)
