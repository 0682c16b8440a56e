"""The audit of ONNX graphs: at every level they are the float graph, and their constants are transformers'."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from proofs import Unproven
from wrong_builders import (
    FAR_BUILDERS,
    UNSEEN_BUILDERS,
    WRONG_BUILDERS,
    WRONG_INTERFACES,
    WRONG_LAYERS,
    WrongBuilder,
)

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import Part
from edgekit.errors import GateError
from edgekit.formats import calibration
from edgekit.formats.onnx.layout import layout_of
from edgekit.formats.onnx.writer import graph_of
from edgekit.prove import WrittenPart
from edgekit.prove.audit import Audit, audit
from edgekit.prove.written import refusing

ALL = [name for name, level in LEVELS.items() if level.format == "onnx"]
QUICK = ["fp16", "int8", "q4_128"]  # each codec, and each way in which activations are rounded, but one
ROLES = ("decoder", "vision", "image_encoder", "text_encoder")


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def levels(request: pytest.FixtureRequest, role: str) -> Unproven:
    """All levels of the model that has the part."""
    name = "medgemma_levels" if role in ("decoder", "vision") else "medsiglip_levels"
    made: Unproven = request.getfixturevalue(name)
    return made


def part_of(levels: Unproven, role: str, level: str) -> WrittenPart:
    (part,) = (part for part in levels.parts(role) if part.level == level)
    return WrittenPart(part, tuple(levels.folder / file.path for file in part.files), {})


def audited(levels: Unproven, written: WrittenPart) -> Audit:
    """All but the part's tensors."""
    runs = levels.runs
    with refusing(written.where):
        found = audit(runs.source, written, runs.original, runs.progress)
    found.check(written.where)
    return found


def graphs_of(written: WrittenPart) -> list[Path]:
    return [path for path in written.files if path.suffix == ".onnx"]


@contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Whatever is done to these files is undone."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


@contextmanager
def built_by(levels: Unproven, written: WrittenPart, wrong: WrongBuilder) -> Iterator[None]:
    """The part's graphs are those of a wrong builder; whoever audits has the right one."""
    plan = levels.runs.source.plan(written.role, LEVELS[written.level])
    measured = [path for path in written.files if path.name.endswith(calibration.SUFFIX)]
    plan = plan.calibrated(calibration.read(measured[0])) if measured else plan
    paths = graphs_of(written)
    layout = layout_of(f"{paths[0].name}_data", plan)
    with restored(*paths):
        with pytest.MonkeyPatch.context() as monkeypatch:
            wrong.patch(monkeypatch)
            for path, build in zip(paths, plan.form.graphs.values(), strict=True):
                path.write_bytes(graph_of(build, path.stem, plan, layout))
        yield


@contextmanager
def edited(path: Path, edit: Callable[[Any], None]) -> Iterator[None]:
    """One graph is another."""
    with restored(path):
        model = onnx.load(path, load_external_data=False)
        edit(model)
        path.write_bytes(model.SerializeToString())
        yield


def refused(levels: Unproven, written: WrittenPart, match: str = "") -> None:
    with pytest.raises(GateError, match=rf"^{written.role} {written.level}: audit: .*{match}"):
        audited(levels, written)


@pytest.mark.parametrize("level", ALL)
def test_right_graphs_are_their_float_graph(levels: Unproven, role: str, level: str) -> None:
    assert audited(levels, part_of(levels, role, level)).constants > 10


def test_right_graphs_may_stand_in_another_order_under_other_names(levels: Unproven, role: str) -> None:
    def edit(model: Any) -> None:
        outputs = {value.name for value in model.graph.output}
        made = {node.output[0]: f"value {i}" for i, node in enumerate(model.graph.node)}
        made = {name: new for name, new in made.items() if name not in outputs}
        for node in model.graph.node:
            node.name = f"another {node.name}"
            for names in (node.input, node.output):
                names[:] = [made.get(name, name) for name in names]
        constants = list(model.graph.initializer)[::-1]
        del model.graph.initializer[:]
        model.graph.initializer.extend(constants)

    written = part_of(levels, role, "q4_m")
    with edited(written.files[0], edit):
        assert audited(levels, written).constants > 10


@pytest.mark.parametrize(
    "level", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_wrong_builders_are_refused_at_every_level(levels: Unproven, role: str, level: str) -> None:
    written = part_of(levels, role, level)
    mistakes = [wrong for wrong in (*WRONG_BUILDERS, *UNSEEN_BUILDERS) if role in wrong.roles]
    assert len(mistakes) >= 8
    for wrong in mistakes:
        with built_by(levels, written, wrong):
            refused(levels, written)


def test_a_builder_that_is_wrong_at_all_levels_is_refused_by_its_constants(levels: Unproven, role: str) -> None:
    """The float graph is wrong then, too; transformers' configuration is not."""
    # Of the bases each is there, at another place, and so is the scale: exactness refuses these.
    words = ("epsilon", "scale", "base 5e5", "factor", "window", "1.01", "exact GELU")
    mistakes = [
        wrong
        for wrong in WRONG_BUILDERS
        if role in wrong.roles and any(word in wrong.name for word in words) and "in towers" not in wrong.name
    ]
    written = part_of(levels, role, "q4_128")
    assert len(mistakes) >= 2
    for wrong in mistakes:
        with built_by(levels, written, wrong), pytest.MonkeyPatch.context() as monkeypatch:
            wrong.patch(monkeypatch)
            refused(levels, written)


def test_a_builder_that_is_wrong_beyond_what_a_proof_runs_is_refused(levels: Unproven, role: str) -> None:
    """At all levels, so that it is its own witness; nor has it a constant that no configuration states."""
    written = part_of(levels, role, "q4")
    mistakes = [wrong for wrong in FAR_BUILDERS if role in wrong.roles]
    assert mistakes
    for wrong in mistakes:
        with built_by(levels, written, wrong), pytest.MonkeyPatch.context() as monkeypatch:
            wrong.patch(monkeypatch)
            refused(levels, written, "numbers of the model decide| of \\w+_attention is |positions")


@pytest.mark.parametrize("level", ["fp32", "int8"])
def test_a_layer_that_is_wrong_at_all_levels_is_refused_beside_the_others(
    levels: Unproven, role: str, level: str
) -> None:
    """Exactness of a large model is shown on its first layers."""
    written = part_of(levels, role, level)
    mistakes = [wrong for wrong in WRONG_LAYERS if role in wrong.roles]
    assert mistakes
    for wrong in mistakes:
        with built_by(levels, written, wrong), pytest.MonkeyPatch.context() as monkeypatch:
            wrong.patch(monkeypatch)
            refused(levels, written, r"layer \d differs from layer 1|6.key FLOAT \[1, 4, global_capacity")


# ---------------------------------------------------------------- codecs' own constants


def _attribute(operator: str, name: str, value: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        nodes = (node for node in model.graph.node if node.op_type == operator)
        found = next(one for node in nodes for one in node.attribute if one.name == name)
        found.CopyFrom(helper.make_attribute(name, value))

    return edit


def _input(operator: str, at: int, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The first such operator reads another constant."""

    def edit(model: Any) -> None:
        kinds = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
        stored = (tensor for tensor in model.graph.initializer if not tensor.external_data)
        constants = {tensor.name: tensor for tensor in stored if tensor.data_type in kinds}
        node = next(node for node in model.graph.node if node.op_type == operator and node.input[at] in constants)
        array = numpy_helper.to_array(constants[node.input[at]])
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(change(array), array.dtype), "wrong"))
        node.input[at] = "wrong"

    return edit


CODECS: list[tuple[str, str, str, Callable[[Any], None]]] = [
    ("decoder", "q4", "how activations are rounded", _attribute("MatMulNBits", "accuracy_level", 1)),
    ("decoder", "int8_dynamic", "the largest step", _input("Div", 1, lambda right: right + 1)),
    ("decoder", "int8_dynamic", "the zero point", _input("MatMulInteger", 2, lambda right: right - 1)),
    ("decoder", "int8_dynamic", "the least scale", _input("Max", 1, lambda right: right * 2)),
    ("decoder", "int8_dynamic", "rounding", lambda model: _renamed(model, "Round", "Abs")),
    ("decoder", "int8", "a measured scale", _input("QuantizeLinear", 1, lambda right: right * 2)),
    ("decoder", "int8", "a measured zero point", _input("DequantizeLinear", 2, lambda right: right + 1)),
    ("text_encoder", "q4", "the middle of a table", _input("Sub", 1, lambda right: right + 1)),
    ("text_encoder", "q4", "halves of a byte", _input("BitwiseAnd", 1, lambda right: right // 2)),
    ("image_encoder", "int8", "an axis of scales", _attribute("DequantizeLinear", "axis", 0)),
]


def _renamed(model: Any, operator: str, other: str) -> None:
    next(node for node in model.graph.node if node.op_type == operator).op_type = other


@pytest.mark.parametrize(
    ("role", "level", "edit"), [(r, n, e) for r, n, _, e in CODECS], ids=[what for *_, what, _ in CODECS]
)
def test_a_codec_whose_constants_are_others_is_refused(
    levels: Unproven, role: str, level: str, edit: Callable[[Any], None]
) -> None:
    written = part_of(levels, role, level)
    with edited(written.files[0], edit):
        refused(levels, written)


@pytest.mark.parametrize("role", ["decoder", "image_encoder"])
def test_measured_ranges_are_those_of_the_file_beside_the_graph(levels: Unproven, role: str) -> None:
    written = part_of(levels, role, "int8")
    path = next(path for path in written.files if path.name.endswith(calibration.SUFFIX))
    for change, match in (
        (lambda measured: {**measured, "high": measured["high"] * 2}, ""),
        (lambda measured: {**measured, "high": measured["low"]}, "ranges from"),
    ):
        with restored(path):
            data = json.loads(path.read_text())
            name = next(iter(data["ranges"]))
            data["ranges"][name] = change(data["ranges"][name])
            path.write_text(json.dumps(data))
            refused(levels, written, match)


# ---------------------------------------------------------------- the interface


def _other_weight(model: Any) -> None:
    """Two matrices of one shape change places."""
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    first = nodes[0]
    second = next(node for node in nodes[1:] if node.attribute == first.attribute)
    for at in (1, 2):
        first.input[at], second.input[at] = second.input[at], first.input[at]


def _other_type(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _other_side(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "another"


def _fewer_outputs(model: Any) -> None:
    del model.graph.output[-1]


@pytest.mark.parametrize("edit", [_other_weight, _other_type, _other_side, _fewer_outputs])
def test_another_interface_is_refused(levels: Unproven, role: str, edit: Callable[[Any], None]) -> None:
    if role == "vision" and edit is _fewer_outputs:
        pytest.skip("it has one output")
    written = part_of(levels, role, "q4")
    with edited(written.files[0], edit):
        refused(levels, written)


def test_an_interface_that_is_another_at_all_levels_is_refused(levels: Unproven, role: str) -> None:
    """The builder is no witness of it."""
    written = part_of(levels, role, "q4")
    for wrong in WRONG_INTERFACES:
        with built_by(levels, written, wrong), pytest.MonkeyPatch.context() as monkeypatch:
            wrong.patch(monkeypatch)
            refused(levels, written, "(input|output) ")


def _said(message: str, field: str, value: Any) -> Callable[[Any], None]:
    """The model, its graph, or the first of the graph's parts says something."""

    def edit(model: Any) -> None:
        first = {"model": model, "graph": model.graph, "node": model.graph.node[0], "input": model.graph.input[0]}
        setattr(first[message], field, value)

    return edit


def _licensed(key: str, *place: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        holder = getattr(model, place[0]) if place else model
        holder.metadata_props.add(key=key, value="{}")

    return edit


def _another_version(model: Any) -> None:
    model.opset_import[0].version += 1


def _unused_domain(model: Any) -> None:
    model.opset_import.add(domain="ai.onnx.ml", version=5)


def _unread_tensor(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(9, np.float32), "unread"))


def _shape_within(model: Any) -> None:
    """No runtime infers it, and some believe it."""
    name = model.graph.node[0].output[0]
    model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [7]))


SAID: list[Callable[[Any], None]] = [
    _said("model", "producer_name", "another"),
    _said("model", "doc_string", "MedGemma 27B IT"),
    _said("model", "model_version", 9),
    _said("model", "ir_version", 9),
    _said("graph", "name", "another"),
    _said("node", "doc_string", "another"),
    _said("input", "doc_string", "pixels in 0 .. 255"),
    _licensed("license"),
    _licensed("ort_config"),
    _licensed("edgekit.logit_scale_"),
    _licensed("license", "graph"),
    _another_version,
    _unused_domain,
    _unread_tensor,
    _shape_within,
]


def test_what_a_file_says_beside_its_graph_is_what_edgekit_says(levels: Unproven, role: str) -> None:
    """Nothing is computed of it, so nothing else refuses it, and an exporter may say it at all levels."""
    written = part_of(levels, role, "q4")
    for edit in SAID:
        with edited(graphs_of(written)[-1], edit):
            refused(levels, written, r"[\s\S]*\.onnx: (the |\w+ of a \w+Proto is )")


def test_what_goes_in_and_comes_out_is_documented(levels: Unproven, role: str) -> None:
    rows = (Path(__file__).parent.parent / "exports" / "README.md").read_text(encoding="utf-8").splitlines()
    runs = levels.runs
    interfaces = runs.source.family.roles[role].forms["onnx"].interfaces(runs.original.config)
    for stem, interface in interfaces.items():
        (row,) = (row.split("|") for row in rows if row.startswith(f"| `{stem}` "))
        for cell, values in ((row[2], interface.inputs), (row[3], interface.outputs)):
            documented = re.findall(r"`([\w.*]+)`", cell.partition(";")[0])
            assert sorted(documented) == sorted({re.sub(r"\.\d.*", ".*", name) for name in values})


def test_what_a_manifest_requires_is_what_the_graphs_need(levels: Unproven, role: str) -> None:
    written = part_of(levels, role, "q4")
    part: Part = written.part.model_copy(update={"requires": {**written.part.requires, "opset": 17}})
    refused(levels, WrittenPart(part, written.files, {}), "requires, opset, is 17")
