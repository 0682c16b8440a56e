"""Audit a part's ONNX graphs: at every level they are the model's float graph, and its constants are transformers'.

The float graph is built anew, without weights; `edgekit.prove.exactness` shows that it computes what transformers does.
So a graph that rounds weights and activations, and is else the same node by node, hides no mistake behind rounding.
What exactness cannot see, such as an epsilon beside large activations, is compared by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import level as level_of
from edgekit.artifacts.manifest import Part
from edgekit.errors import GateError
from edgekit.formats import calibration
from edgekit.formats.calibration import Range
from edgekit.formats.onnx import expressions, requirements
from edgekit.formats.onnx.collapse import Collapse
from edgekit.formats.onnx.constants import REMEDY, Use, check_constants, uses_of
from edgekit.formats.onnx.expressions import Pool
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.layout import layout_of
from edgekit.formats.onnx.operators import read_checked
from edgekit.formats.onnx.writer import graph_of
from edgekit.formats.plan import PartPlan


def check_graphs(plan: PartPlan, part: Part, files: Sequence[Path], original: Any) -> int:
    """Check all graphs of a part; see `edgekit.formats.base.Format.constants`.

    Args:
        plan: of the part at full precision, which says what the float graphs are.
        original: whose `config` is transformers' configuration.

    Returns:
        How many constants were compared.

    Raises:
        ArtifactError: a file is broken.
        GateError: a graph differs from the float graph, or a constant from transformers' configuration.
    """
    level, specs = level_of(part.level), {planned.name: planned.spec for planned in plan.tensors}
    graphs = [path for path in files if path.suffix == ".onnx"]
    check_requires(graphs, files, part.requires)
    ranges = _ranges(files) if level.needs_calibration else {}
    uses: dict[Any, Use] = {}
    for stem, build in plan.form.graphs.items():
        path = next((path for path in graphs if path.stem.startswith(stem)), None)
        if path is None:
            raise GateError(f"no graph {stem}*.onnx", allowed=", ".join(plan.form.graphs), remedy=REMEDY)
        expected = onnx().ModelProto.FromString(graph_of(build, path.stem, plan, layout_of(path.name, plan)))
        actual = onnx().load(path, load_external_data=False)
        uses |= _compare(path.name, expected, actual, Collapse(Pool(), specs, level, ranges))
    check_constants(uses.values(), plan.form.constants(original.config))
    return len(uses)


def check_requires(graphs: Sequence[Path], files: Sequence[Path], requires: Mapping[str, Any]) -> None:
    """Check what the manifest says of operators and versions."""
    for name, value in requirements.requires([read_checked(path, files) for path in graphs]).items():
        said = requires.get(name)
        if (list(said) if isinstance(said, tuple) else said) != value:
            raise GateError(f"the manifest requires {name} {said}", allowed=f"{value}, as the graphs do")


def _ranges(files: Sequence[Path]) -> Mapping[str, Range]:
    path = next((path for path in files if path.name.endswith(calibration.SUFFIX)), None)
    ranges = calibration.read(path).ranges if path else {}
    for name, measured in ranges.items():
        if not measured.low < measured.high:
            raise GateError(f"{path}: what enters {name} ranges from {measured.low} to {measured.high}")
    return ranges


def _compare(where: str, expected: Any, actual: Any, collapse: Collapse) -> dict[Any, Use]:
    """Compare a graph with the float graph; its constants, once it is the same."""
    _check_interface(where, expected, actual)
    right, _ = expressions.read(collapse.pool, expected.graph, collapse)
    found, unused = expressions.read(collapse.pool, actual.graph, collapse)
    if different := expressions.difference(right, found):
        raise GateError(
            f"{where}: near {different.near}: {different.actual}", allowed=different.expected, remedy=REMEDY
        )
    if unused:
        raise GateError(f"{where}: the node {unused[0]!r:.100} gives nothing that is asked for", remedy=REMEDY)
    return {use.key: use for use in uses_of(found.values())}


def _check_interface(where: str, expected: Any, actual: Any) -> None:
    """Names, types and shapes of what goes in and comes out, in order; versions of operators."""

    def interface(model: Any) -> dict[str, list[str]]:
        graph = model.graph
        stored = {tensor.name for tensor in graph.initializer}
        opsets = sorted((one.domain, one.version) for one in model.opset_import if not one.domain)
        return {
            "input": [_spelled(value) for value in graph.input if value.name not in stored],
            "output": [_spelled(value) for value in graph.output],
            "opset": [f"{version}" for _, version in opsets],
            "IR version": [str(model.ir_version)],
        }

    right, found = interface(expected), interface(actual)
    for kind, values in right.items():
        missing = [value for value in values if value not in found[kind]]
        extra = [value for value in found[kind] if value not in values]
        if missing or extra or values != found[kind]:
            said = ", ".join(extra) or ("not " + ", ".join(missing) if missing else ", ".join(found[kind]))
            allowed = ", ".join(missing or values)
            raise GateError(f"{where}: {kind} {said}", allowed=allowed, remedy=REMEDY)


def _spelled(value: Any) -> str:
    tensor = value.type.tensor_type
    sides = [side.dim_param or str(side.dim_value) for side in tensor.shape.dim]
    return f"{value.name} {onnx().TensorProto.DataType.Name(tensor.elem_type)} [{', '.join(sides)}]"
