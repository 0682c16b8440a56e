"""Audit a part's ONNX graphs: at every level they are the model's float graph, and its constants are transformers'.

The float graph is built anew, without weights; `edgekit.prove.exactness` shows that it computes what transformers does.
So a graph that rounds weights and activations, and is else the same node by node, hides no mistake behind rounding.
What exactness cannot see, such as an epsilon beside large activations, is compared by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.levels import level as level_of
from edgekit.errors import ArtifactError
from edgekit.formats import calibration
from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.calibration import Range
from edgekit.formats.onnx import expressions, own, positional, requirements
from edgekit.formats.onnx.collapse import Collapse
from edgekit.formats.onnx.constants import Use, compared, uses_of
from edgekit.formats.onnx.expressions import Expression, Pool
from edgekit.formats.onnx.form import Interface, Value
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.layers import check_layers
from edgekit.formats.onnx.layout import is_stored, layout_of
from edgekit.formats.onnx.operators import read_checked
from edgekit.formats.onnx.positional import Statement
from edgekit.formats.onnx.writer import graph_of

_FLOAT = LEVELS["fp32"]
REMEDY = "the exported graph is not the model's; nothing was published"


def audit(part: AuditedPart, original: Any) -> Iterator[Compared]:
    """Compare all graphs of a part; see `edgekit.formats.base.Format.audit`.

    Args:
        original: whose `config` is transformers' configuration.

    Raises:
        ArtifactError: a file is broken, or a graph differs from the float graph.
    """
    level, plan = level_of(part.level), part.plan(_FLOAT)
    graphs = [path for path in part.files if path.suffix == ".onnx"]
    needs = requirements.requires([read_checked(path, part.files) for path in graphs])
    for name, value in needs.items():
        yield Compared("constant", f"what the manifest requires, {name},", part.requires.get(name), value)
    collapse = Collapse(
        Pool(),
        {planned.name: planned.spec for planned in plan.tensors},
        level,
        _ranges(part.files) if level.needs_calibration else {},
    )
    if len(graphs) != len(part.form.graphs):
        raise ArtifactError(f"{len(graphs)} graphs", allowed=", ".join(part.form.graphs), remedy=REMEDY)
    unstored = (planned for planned in plan.tensors if not is_stored(planned.spec))
    numbers = {one.name: float(original.rows(one.tensor.name, 0, 1).ravel()[0]) for one in unstored}
    uses: dict[Any, Use] = {}
    beyond: list[Compared] = []
    kinds, interfaces = part.form.layers(original.config), part.form.interfaces(original.config)
    for stem, build in part.form.graphs.items():
        path = next((path for path in graphs if path.stem.startswith(stem)), None)
        if path is None:
            raise ArtifactError(f"no graph {stem}*.onnx", allowed=", ".join(part.form.graphs), remedy=REMEDY)
        expected = onnx().ModelProto.FromString(graph_of(build, path.stem, plan, layout_of(path.name, plan)))
        actual = onnx().load(path, load_external_data=False)
        _check_interface(path.name, interfaces[stem], actual)
        yield from own.of_the_file(path, actual, numbers)
        found = _compare(path.name, expected, actual, collapse)
        uses |= {use.key: use for use in uses_of(found.values())}
        check_layers(path.name, found, kinds)
        kinds = ()  # the other graphs of a part have no layers
        stated = part.form.positional.get(stem, lambda state, config: {})(Statement(collapse.pool), original.config)
        beyond += positional.differing(collapse.pool, found, _whole(actual), stated)
    yield from compared(uses.values(), part.form.constants(original.config))
    yield from beyond


def _ranges(files: Sequence[Path]) -> Mapping[str, Range]:
    path = next((path for path in files if path.name.endswith(calibration.SUFFIX)), None)
    ranges = calibration.read(path).ranges if path else {}
    for name, measured in ranges.items():
        if not measured.low < measured.high:
            raise ArtifactError(f"{path}: what enters {name} ranges from {measured.low} to {measured.high}")
    return ranges


def _compare(where: str, expected: Any, actual: Any, collapse: Collapse) -> dict[str, Expression]:
    """The outputs of a graph that is the float graph, node by node."""
    right, _ = expressions.read(collapse.pool, expected.graph, collapse)
    found, unused = expressions.read(collapse.pool, actual.graph, collapse)
    if different := expressions.difference(right, found):
        raise ArtifactError(
            f"{where}: near {different.near}: {different.actual}", allowed=different.expected, remedy=REMEDY
        )
    if unused:
        raise ArtifactError(f"{where}: the node {unused[0]!r:.100} gives nothing that is asked for", remedy=REMEDY)
    return found


def _whole(model: Any) -> Iterator[str]:
    """The inputs that are whole numbers."""
    kind = onnx().TensorProto.INT64
    return (value.name for value in model.graph.input if value.type.tensor_type.elem_type == kind)


def _check_interface(where: str, stated: Interface, actual: Any) -> None:
    """Names, types and shapes of what goes in and comes out, in order."""
    right = {
        "input": [_spelled(name, *value) for name, value in stated.inputs.items()],
        "output": [_spelled(name, *value) for name, value in stated.outputs.items()],
    }
    stored = {tensor.name for tensor in actual.graph.initializer}
    found = {
        "input": [_spelled(value.name, *_value(value)) for value in actual.graph.input if value.name not in stored],
        "output": [_spelled(value.name, *_value(value)) for value in actual.graph.output],
    }
    for kind, values in right.items():
        missing = [value for value in values if value not in found[kind]]
        extra = [value for value in found[kind] if value not in values]
        if missing or extra or values != found[kind]:
            said = ", ".join(extra) or ("not " + ", ".join(missing) if missing else ", ".join(found[kind]))
            allowed = ", ".join(missing or values)
            raise ArtifactError(f"{where}: {kind} {said}", allowed=allowed, remedy=REMEDY)


def _value(value: Any) -> Value:
    tensor = value.type.tensor_type
    sides = tuple(side.dim_param or side.dim_value for side in tensor.shape.dim)
    return onnx().TensorProto.DataType.Name(tensor.elem_type), sides


def _spelled(name: str, kind: str, sides: Sequence[int | str]) -> str:
    return f"{name} {kind} [{', '.join(map(str, sides))}]"
