"""Whether a model's graphs are those of the piece of it that exactness runs, but for the numbers of its configuration.

A builder could build something else for a model that is deeper or wider. Each constant is compared by value by the
audit, so here it counts as what it is called; all else must be the same, layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.artifacts.levels import LEVELS
from edgekit.formats.onnx import expressions
from edgekit.formats.onnx.collapse import Collapse
from edgekit.formats.onnx.constants import Constant, Use
from edgekit.formats.onnx.expressions import CONSTANT, Expression, Pool, inside_out
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.layers import check_piece
from edgekit.formats.onnx.layout import layout_of
from edgekit.formats.onnx.writer import graph_of
from edgekit.formats.plan import PartPlan

_FLOAT = LEVELS["fp32"]


def check(whole: tuple[PartPlan, Any], piece: tuple[PartPlan, Any]) -> None:
    """Compare the graphs of one part.

    Args:
        whole, piece: what is written of each at fp32, and transformers' configuration.

    Raises:
        ArtifactError: they differ in more than numbers.
    """
    form, pool = whole[0].form, Pool()
    kinds = [form.layers(config) for _, config in (whole, piece)]
    for stem in form.graphs:
        outputs = [_meant(pool, _outputs(pool, stem, plan), form.constants(config)) for plan, config in (whole, piece)]
        check_piece(stem, pool, (outputs[0], kinds[0]), (outputs[1], kinds[1]))
        kinds = [[], []]  # the other graphs of a part have no layers


def _outputs(pool: Pool, stem: str, plan: PartPlan) -> Mapping[str, Expression]:
    graph = onnx().ModelProto.FromString(graph_of(plan.form.graphs[stem], stem, plan, layout_of(stem, plan))).graph
    specs = {planned.name: planned.spec for planned in plan.tensors}
    outputs, _ = expressions.read(pool, graph, Collapse(pool, specs, _FLOAT, {}))
    return outputs


def _meant(pool: Pool, outputs: Mapping[str, Expression], rows: Sequence[Constant]) -> Mapping[str, Expression]:
    """The same with what each constant is called, and which of its values it is, in its place."""

    def called(use: Use) -> Any:
        row = next((row for row in rows if row.matches(use)), None)
        return (row.name, row.find(use.value)) if row else None

    meant: dict[Expression, Expression] = {}
    for value in inside_out(outputs.values()):
        beside = next((one.operator for one in value.inputs if one.operator != CONSTANT), None)
        inputs = [meant[one] for one in value.inputs]
        for at, one in enumerate(value.inputs):
            if one.operator == CONSTANT and (name := called(Use(value.operator, at, beside, one.array))):
                inputs[at] = pool.make(CONSTANT, attributes=name)
        if not value.inputs:
            meant[value] = value
            continue
        attributes = [
            (name, called(Use(value.operator, name, beside, setting)) or setting) for name, setting in value.attributes
        ]
        meant[value] = pool.make(value.operator, *inputs, attributes=attributes)
    return {name: meant[value] for name, value in outputs.items()}
