"""Mistakes in what ONNX graphs compute: a configuration read wrongly, a wrong graph builder, or an edited graph."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from proofs import Trial

from edgekit.families.gemma3 import graph as gemma
from edgekit.families.gemma3 import vision_graph
from edgekit.families.siglip.graph import POOLED
from edgekit.formats import calibration
from edgekit.formats.calibration import Range
from edgekit.formats.onnx import names
from edgekit.formats.onnx.graph import Graph
from wrong_exports.entry import Exporter, WrongExport, by, misreading, written_by
from wrong_exports.header import MAX

DECODER, VISION, IMAGE, TEXT = "decoder", "vision", "image_encoder", "text_encoder"
_MERGED, _EMBED = "decoder_model_merged", names.EMBEDDING_STEM
_TOWERS: Mapping[str, tuple[str, str]] = {  # role -> graph, section of config.json
    VISION: ("vision_encoder", "vision_config"),
    IMAGE: ("vision_model", "vision_config"),
    TEXT: ("text_model", "text_config"),
}
EditGraph = Callable[[Trial, onnx.GraphProto], None]
_OP, _LINEAR, _PARAMETER = Graph.op, Graph.linear, Graph.parameter


@contextmanager
def _in_file(trial: Trial, stem: str, edit: Callable[[Trial, onnx.ModelProto], None]) -> Iterator[Trial]:
    """An ONNX file of the part edited for a while; its data file stays."""
    path = trial.graph(stem)
    before = path.read_bytes()
    model = onnx.load_from_string(before)
    edit(trial, model)
    path.write_bytes(model.SerializeToString())
    try:
        yield trial
    finally:
        path.write_bytes(before)


def _in_graph(trial: Trial, stem: str, edit: EditGraph) -> AbstractContextManager[Trial]:
    return _in_file(trial, stem, lambda trial, model: edit(trial, model.graph))


def _constant(graph: onnx.GraphProto, name: str, values: Any, dtype: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _before_all(graph: onnx.GraphProto, name: str, *nodes: onnx.NodeProto) -> None:
    """Whoever reads an input reads what these nodes make of it."""
    for node in graph.node:
        for i, value in enumerate(node.input):
            node.input[i] = nodes[-1].output[0] if value == name else value
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _after(output: str, kind: str, *inputs: tuple[Any, Any], **attributes: Any) -> EditGraph:
    """An output is what an operator makes of the right one."""

    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        (maker,) = (node for node in graph.node if output in node.output)
        at = list(maker.output).index(output)
        maker.output[at] = "right"
        for node in graph.node:
            for i, value in enumerate(node.input):
                node.input[i] = "right" if value == output else value
        given = [_constant(graph, f"wrong_{i}", values, dtype) for i, (values, dtype) in enumerate(inputs)]
        graph.node.append(helper.make_node(kind, ["right", *given], [output], **attributes))

    return edit


def _outputs_exchanged(one: str, other: str) -> EditGraph:
    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        renamed = {one: "wrong_one", other: "wrong_other"}
        for node in graph.node:
            node.input[:] = [renamed.get(value, value) for value in node.input]
            node.output[:] = [renamed.get(value, value) for value in node.output]
        graph.node.append(helper.make_node("Identity", ["wrong_one"], [other]))
        graph.node.append(helper.make_node("Identity", ["wrong_other"], [one]))

    return edit


# ---------------------------------------------------------------- what a file says beside its graph


def _number_changed(trial: Trial, model: onnx.ModelProto) -> None:
    """Of those that the checkpoint has as tensors, which programs may ask the file for."""
    model.metadata_props[0].value = repr(2 * float(model.metadata_props[0].value))


def _option_added(trial: Trial, model: onnx.ModelProto) -> None:
    """What ONNX Runtime takes for options of whoever opens it, where it was told to."""
    model.metadata_props.add(key="ort_config", value='{"session_options": {"session.disable_prepacking": "1"}}')


def _licence_added(trial: Trial, model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="license", value="Apache-2.0")


def _tensor_added(trial: Trial, model: onnx.ModelProto) -> None:
    """Which no node reads."""
    _constant(model.graph, "wrong", np.ones(4), np.float32)


def _operators_newer(trial: Trial, model: onnx.ModelProto) -> None:
    (standard,) = (one for one in model.opset_import if one.domain in ("", "ai.onnx"))
    standard.version += 1


_BESIDE = (
    ("the metadata state options of a runtime", _option_added),
    ("the metadata state another licence", _licence_added),
    ("no node reads one of the tensors", _tensor_added),
    ("operators are of another version", _operators_newer),
)


# ---------------------------------------------------------------- a decoder's calls


def _images_causal(trial: Trial, graph: onnx.GraphProto) -> None:
    zero = _constant(graph, "wrong", 0, np.int64)
    _before_all(graph, names.IMAGES, helper.make_node("Mul", [names.IMAGES, zero], ["wrong_images"]))


def _images_joined(trial: Trial, graph: onnx.GraphProto) -> None:
    """Whatever belongs to an image belongs to the first."""
    zero = _constant(graph, "wrong", 0, np.int64)
    _before_all(
        graph,
        names.IMAGES,
        helper.make_node("Greater", [names.IMAGES, zero], ["wrong_seen"]),
        helper.make_node("Cast", ["wrong_seen"], ["wrong_images"], to=TensorProto.INT64),
    )


def _steps_start_over(trial: Trial, graph: onnx.GraphProto) -> None:
    """Whoever asks for one token gets it at position 0."""
    one = _constant(graph, "wrong", 1, np.int64)
    _before_all(
        graph,
        names.POSITIONS,
        helper.make_node("Shape", [names.POSITIONS], ["wrong_length"], start=1, end=2),
        helper.make_node("Greater", ["wrong_length", one], ["wrong_several"]),
        helper.make_node("Cast", ["wrong_several"], ["wrong_factor"], to=TensorProto.INT64),
        helper.make_node("Mul", [names.POSITIONS, "wrong_factor"], ["wrong_positions"]),
    )


def _window(change: Callable[[int], int]) -> EditGraph:
    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        nodes = [node for node in graph.node if node.op_type == "Less"]  # of the mask, and of nothing else
        assert nodes
        for node in nodes:
            node.input[1] = _constant(graph, "wrong", change(trial.text.sliding_window), np.int64)

    return edit


def _global_window(trial: Trial, graph: onnx.GraphProto) -> None:
    """The one mask without a window gets it."""
    maker = {name: node for node in graph.node for name in node.output}
    masks = [node for node in graph.node if node.op_type == "Where"]
    (mask,) = (node for node in masks if maker[maker[node.input[0]].input[1]].op_type != "Less")
    seen = maker[mask.input[0]]
    distance = maker[maker[seen.input[0]].input[0]].input[0]
    window = _constant(graph, "wrong", trial.text.sliding_window, np.int64)
    at = list(graph.node).index(mask)
    graph.node.insert(at, helper.make_node("And", [mask.input[0], "wrong_near"], ["wrong_seen"]))
    graph.node.insert(at, helper.make_node("Less", [distance, window], ["wrong_near"]))
    mask.input[0] = "wrong_seen"


# ---------------------------------------------------------------- what is pooled


def _pooled_from(*nodes: tuple[str, list[Any], dict[str, Any]]) -> EditGraph:
    """`pooler_output` becomes what these operators, each with its further inputs, make of the last hidden state."""

    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        (pooled,) = (node for node in graph.node if POOLED in node.output)
        pooled.output[0] = "right"
        value = "last_hidden_state"
        for number, (kind, inputs, attributes) in enumerate(nodes):
            given = [_constant(graph, f"wrong_{number}", values, np.int64) for values in inputs]
            value, before = f"wrong_{kind}", value
            graph.node.append(helper.make_node(kind, [before, *given], [value], **attributes))
        graph.node.append(helper.make_node("Identity", [value], [POOLED]))

    return edit


# ---------------------------------------------------------------- a wrong builder


def _op(kind: str, change: Callable[..., Any]) -> Exporter:
    """A builder whose operators of one kind are others: `change(graph, right, *inputs, **how)`."""

    def op(graph: Graph, called: str, *inputs: str, **how: Any) -> Any:
        return (
            change(graph, functools.partial(_OP, graph), *inputs, **how)
            if called == kind
            else _OP(graph, called, *inputs, **how)
        )

    return Exporter(patches=((Graph, "op", op),))


def _of(kind: str, givers: tuple[str, str], change: Callable[..., Any]) -> Exporter:
    """As `_op`, of those alone that take what these two operators give; "" for any."""

    def between(graph: Graph, right: Any, *inputs: str, **how: Any) -> Any:
        fits = len(inputs) == 2 and all(map(str.startswith, inputs, givers))
        return change(right, *inputs) if fits else right(kind, *inputs, **how)

    return _op(kind, between)


def _rotated_backwards() -> Exporter:
    return _of("Add", ("mul_", "mul_"), lambda right, one, other: right("Sub", one, other))


def _added_in_mlp() -> Exporter:
    return _of("Mul", ("gelu_", ""), lambda right, gate, up: right("Add", gate, up))


def _unmasked() -> Exporter:
    return _of("Add", ("matmul_", "tile_"), lambda right, scores, mask: scores)


def _residual(given: str, change: Callable[..., Any]) -> Exporter:
    """What is added to what was before; sums of a rotation, both of products, are not."""

    def added(right: Any, before: str, new: str) -> Any:
        return right("Add", before, new) if before.startswith("mul_") else change(right, before, new)

    return _of("Add", ("", given), added)


def _twice(right: Any, before: str, new: str) -> Any:
    return right("Add", before, right("Add", before, new))


def _without(right: Any, before: str, new: str) -> Any:
    return new


def _rms_norm_left_out(ending: str) -> Exporter:
    right = gemma.rms_norm
    return Exporter(patches=((gemma, "rms_norm", lambda graph, value, name, epsilon: (
        value if name.endswith(ending) else right(graph, value, name, epsilon))),))  # fmt: skip


def _layer_norm_left_out(graph: Graph, right: Any, value: str, *named: str, **how: Any) -> Any:
    """Behind all layers."""
    last = "post_layernorm" in named[0] or "final_layer_norm" in named[0]
    return value if last else right("LayerNormalization", value, *named, **how)


def _gelu(approximate: str) -> Exporter:
    return _op("Gelu", lambda graph, right, value, **how: right("Gelu", value, approximate=approximate))


def _quick_gelu() -> Exporter:
    def quick(graph: Graph, right: Any, value: str, **how: Any) -> Any:
        return right("Mul", value, right("Sigmoid", right("Mul", value, graph.constant(1.702))))

    return _op("Gelu", quick)


def _silu() -> Exporter:
    return _op("Gelu", lambda graph, right, value, **how: right("Mul", value, right("Sigmoid", value)))


def _relu() -> Exporter:
    return _op("Gelu", lambda graph, right, value, **how: right("Relu", value))


def _attention_scaled(scale: float) -> Exporter:
    """Towers whose scores are not divided by the root of a head's width."""
    return _op(
        "MultiHeadAttention",
        lambda graph, right, *given, **how: right("MultiHeadAttention", *given, **{**how, "scale": scale}),
    )


def _without_bias() -> Exporter:
    return Exporter(patches=((Graph, "linear", lambda graph, value, name, bias=None: _LINEAR(graph, value, name)),))


def _without_one_bias(ending: str) -> Exporter:
    def linear(graph: Graph, value: str, name: str, bias: str | None = None) -> str:
        return _LINEAR(graph, value, name, None if bias and bias.endswith(ending) else bias)

    return Exporter(patches=((Graph, "linear", linear),))


def _renamed(change: Callable[[str], str]) -> Exporter:
    """A builder that takes one vector for another."""
    return Exporter(patches=((Graph, "parameter", lambda graph, name: _PARAMETER(graph, change(name))),))


def _exchange(one: str, other: str) -> Callable[[str], str]:
    swapped = {one: other, other: one}

    def change(name: str) -> str:
        found = next((part for part in swapped if part in name), None)
        return name.replace(found, swapped[found]) if found else name

    return change


def _matrices(one: str, other: str) -> Exporter:
    """A builder that takes one matrix for another."""
    change = _exchange(one, other)
    return Exporter(
        patches=((Graph, "linear", lambda graph, value, name, bias=None: _LINEAR(graph, value, change(name), bias)),)
    )


def _capped(by: float) -> Exporter:
    right = Graph.by_rows

    def capped(graph: Graph, value: str, name: str) -> str:
        limit = graph.constant(by)
        return str(graph.op("Mul", graph.op("Tanh", graph.op("Div", right(graph, value, name), limit)), limit))

    return Exporter(patches=((Graph, "by_rows", capped),))


def _attention_capped(by: float) -> Exporter:
    """As Gemma 2 caps attention's scores."""

    def softmax(graph: Graph, right: Any, value: str, **how: Any) -> Any:
        limit = graph.constant(by)
        capped = right("Mul", right("Tanh", right("Div", value, limit)), limit)
        return right("Softmax", right("Min", value, capped), **how)

    return _op("Softmax", softmax)


def _embeddings_scaled(change: Callable[[Any], float]) -> Exporter:
    return Exporter(patches=((gemma, "embedding_scale", change),))


def _kinds(wrong: Callable[[int], str]) -> Exporter:
    return Exporter(patches=((gemma, "kind_of", wrong),))


def _ranges_scaled(by: float) -> Exporter:
    """What enters matrices is rounded as if it ranged so much farther."""
    right = Graph.__init__

    def begin(graph: Graph, name: str, layout: Any, activations: Any = "float", ranges: Any = None) -> None:
        wrong = {matrix: Range(by * one.low, by * one.high) for matrix, one in (ranges or {}).items()}
        right(graph, name, layout, activations, wrong)

    return Exporter(patches=((Graph, "__init__", begin),))


@contextmanager
def _measured_otherwise(trial: Trial, scale: float) -> Iterator[Trial]:
    """Ranges of activations that were measured wrongly: graphs and what lies beside them say the same."""
    path = next(path for path in trial.files if path.name.endswith(calibration.SUFFIX))
    before, right = path.read_bytes(), calibration.read(path)
    ranges = {matrix: Range(scale * one.low, scale * one.high) for matrix, one in right.ranges.items()}
    right.model_copy(update={"ranges": ranges}).write(path)
    try:
        with written_by(trial, _ranges_scaled(scale)):
            yield trial
    finally:
        path.write_bytes(before)


def _max_pooled() -> Exporter:
    return _op("AveragePool", lambda graph, right, value, **how: right("MaxPool", value, **how))


def _norm_left_out() -> Exporter:
    return Exporter(patches=((vision_graph, "rms_norm", lambda graph, value, name, epsilon: value),))


def _features_scaled(factor: float) -> EditGraph:
    return _after(vision_graph.OUTPUT, "Mul", (factor, np.float32))


# ---------------------------------------------------------------- the list


def _graph(name: str, edit: EditGraph, role: str = DECODER, stem: str = _MERGED, sees: bool = False) -> WrongExport:
    return WrongExport(name, (role,), "onnx", "graph", functools.partial(_in_graph, stem=stem, edit=edit), sees=sees)


def _built(name: str, exporter: Exporter, role: str = DECODER) -> WrongExport:
    return WrongExport(name, (role,), "onnx", "graph", by(exporter), exporter=exporter)


def _text(**values: Any) -> Exporter:
    return Exporter(misreading(text_config=values))


def _tower(section: str, **values: Any) -> Exporter:
    return Exporter(misreading(**{section: values}))


def _towers(name: str, exporter: Callable[[str], Exporter], roles: tuple[str, ...] = (VISION, IMAGE, TEXT)) -> Any:
    """In each tower, by its section of config.json."""
    for role in roles:
        yield _built(name, exporter(_TOWERS[role][1]), role)


def _pooler(name: str, *nodes: tuple[str, list[Any], dict[str, Any]]) -> Any:
    for role in (IMAGE, TEXT):
        yield _graph(name, _pooled_from(*nodes), role, _TOWERS[role][0])


def _output(name: str, edit: Callable[[str], EditGraph]) -> Any:
    """In both of MedSigLIP's encoders, by the name of their embedding."""
    for role, embedding in ((IMAGE, "image_embeds"), (TEXT, "text_embeds")):
        yield _graph(name, edit(embedding), role, _TOWERS[role][0])


GRAPH: tuple[WrongExport, ...] = (
    _built("epsilon of the norms is 1e-5", _text(rms_norm_eps=1e-5)),
    _built("epsilon of the norms is 1e-3", _text(rms_norm_eps=1e-3)),
    _built("the global base is 5e5", _text(rope_theta=5e5)),
    _built("the global base is the local one", _text(rope_theta=1e4)),
    _built("the local base is the global one", _text(rope_local_base_freq=1e6)),
    _built(
        "bases of rotation are exchanged",
        _text(rope_theta=lambda t: t.rope_local_base_freq, rope_local_base_freq=lambda t: t.rope_theta),
    ),
    _built("the factor is 7", _text(rope_factor=7.0)),
    _built("the factor is 8.01", _text(rope_factor=8.01)),
    _built("global layers are not stretched", _text(rope_factor=1.0)),
    _built(
        "local layers are stretched",
        Exporter(patches=((gemma, "frequencies", lambda text, kind, right=gemma.frequencies: right(text, kind) / (
            text.rope_factor if kind == gemma.LOCAL else 1)),)),
    ),
    _built(
        "exponents of rotation are one off",
        Exporter(patches=((gemma, "frequencies", lambda text, kind, right=gemma.frequencies: np.roll(
            right(text, kind), -1)),)),
    ),
    _built("attention's scale is of another width", _text(query_pre_attn_scalar=lambda t: 4 * t.query_pre_attn_scalar)),
    _built("attention's scale is one off", _text(query_pre_attn_scalar=lambda t: t.query_pre_attn_scalar + 1)),
    _built("every layer is local", _kinds(lambda layer: gemma.LOCAL)),
    _built("every layer is global", _kinds(lambda layer: gemma.GLOBAL)),
    _built("the first layer of six is global", _kinds(lambda layer: (gemma.LOCAL, gemma.GLOBAL)[layer % 6 == 0])),
    _built("every fifth layer is global", _kinds(lambda layer: (gemma.LOCAL, gemma.GLOBAL)[(layer + 1) % 5 == 0])),
    *(
        WrongExport(name, (DECODER, VISION, IMAGE, TEXT), "onnx", "graph", change, activations="static")
        for name, change in (
            ("activations are cut to half of their range", by(_ranges_scaled(0.5))),
            ("activations are measured to have a tenth of their range", functools.partial(
                _measured_otherwise, scale=0.1)),
            ("activations are measured to have ten times their range", functools.partial(
                _measured_otherwise, scale=10)),
        )
    ),
    _built("GELU is exact", _gelu("none")),
    _built("GELU is quick", _quick_gelu()),
    _built("SiLU stands for GELU", _silu()),
    _built("norms of queries and keys are exchanged", _renamed(_exchange("q_norm", "k_norm"))),
    _built("norms behind attention and MLP are exchanged",
           _renamed(_exchange("post_attention_layernorm", "post_feedforward_layernorm"))),
    _built("gate and up are exchanged", _matrices("gate_proj", "up_proj")),
    _built("gate and up are added", _added_in_mlp()),
    _built("halves are rotated the other way", _rotated_backwards()),
    _built("what was before is added twice", _residual("mul_", _twice)),
    _built("what was before is left out", _residual("mul_", _without)),
    _built("norms divide by the mean square", _op("Sqrt", lambda graph, right, value, **how: value)),
    _built("the norm of keys is left out", _rms_norm_left_out("k_norm.weight")),
    _built("the norm behind attention is left out", _rms_norm_left_out("post_attention_layernorm.weight")),
    _built("the norm behind all layers is left out", _rms_norm_left_out("model.norm.weight")),
    _built("scores are not masked", _unmasked()),
    _built("final logits are capped at 30", _capped(30)),
    _built("final logits are capped at 50", _capped(50)),
    _built("attention logits are capped at 50", _attention_capped(50)),
    _built("token embeddings are not scaled", _embeddings_scaled(lambda text: 1.0)),
    _built("token embeddings are scaled by 1.01", _embeddings_scaled(lambda text: 1.01 * math.sqrt(text.hidden_size))),
    _graph("local layers see everything", _window(lambda _: MAX)),
    _graph("global layers see a window", _global_window),
    _graph("the window is one too long", _window(lambda window: window + 1)),
    _graph("the window is one too short", _window(lambda window: window - 1)),
    _graph("images are seen causally", _images_causal, sees=True),
    # Only where two images come in one call, and a call usually ends before: so the proof asks for a longer one.
    _graph("images see each other", _images_joined, sees=True),
    _graph("steps start over", _steps_start_over),
    _graph("logits are negated", _after(names.LOGITS, "Mul", (-1.0, np.float32))),
    _graph("logits are times 1.01", _after(names.LOGITS, "Mul", (1.01, np.float32))),
    _graph("logits are shifted", _after(names.LOGITS, "Add", (3.0, np.float32))),
    _graph("token embeddings are scaled twice", _after(names.EMBEDS, "Mul", (16.0, np.float32)), stem=_EMBED),
    *_towers("epsilon of the norms is 1e-5", lambda section: _tower(section, layer_norm_eps=1e-5)),
    *_towers("epsilon of the norms is 1e-3", lambda section: _tower(section, layer_norm_eps=1e-3)),
    *_towers("there are half as many heads", lambda section: _tower(
        section, num_attention_heads=lambda config: config.num_attention_heads // 2)),
    *_towers("GELU is exact", lambda _: _gelu("none")),
    *_towers("GELU is quick", lambda _: _quick_gelu()),
    *_towers("SiLU stands for GELU", lambda _: _silu()),
    *_towers("ReLU stands for GELU", lambda _: _relu()),
    *_towers("what was before is added twice", lambda _: _residual("add_", _twice)),
    *_towers("the norm behind all layers is left out", lambda _: _op("LayerNormalization", _layer_norm_left_out)),
    *_towers("attention's scale is of another width", lambda _: _attention_scaled(1 / 8)),
    *_towers("biases are left out", lambda _: _without_bias()),
    *_towers("the bias of keys is left out", lambda _: _without_one_bias("k_proj.bias")),
    *_towers("the bias of queries is left out", lambda _: _without_one_bias("q_proj.bias")),
    *_towers("norms before attention and MLP are exchanged", lambda _: _renamed(
        _exchange("layer_norm1", "layer_norm2"))),
    *_towers("keys and values are exchanged", lambda _: _matrices("k_proj", "v_proj")),
    _built("patches are pooled by their greatest", _max_pooled(), VISION),
    _built("the projector's norm is left out", _norm_left_out(), VISION),
    _graph("features are times 16", _features_scaled(16), VISION, "vision_encoder"),
    _graph("features are a sixteenth", _features_scaled(1 / 16), VISION, "vision_encoder"),
    _graph("features are negated", _features_scaled(-1), VISION, "vision_encoder"),
    *_pooler("all positions for the pooled output"),
    *_pooler("the last position for the pooled output", ("Gather", [-1], {"axis": 1})),
    *_pooler("the first position for the pooled output", ("Gather", [0], {"axis": 1})),
    *_pooler("the mean of all positions for the pooled output", ("ReduceMean", [[1]], {"keepdims": 0})),
    *_pooler("the greatest of all positions for the pooled output", ("ReduceMax", [[1]], {"keepdims": 0})),
    *_output("the pooled output is negated", lambda _: _after(POOLED, "Mul", (-1.0, np.float32))),
    *_output("the pooled output is doubled", lambda _: _after(POOLED, "Mul", (2.0, np.float32))),
    *_output("the embedding is negated", lambda embedding: _after(embedding, "Mul", (-1.0, np.float32))),
    *_output("the embedding is not of length one", lambda embedding: _after(embedding, "Mul", (2.0, np.float32))),
    *_output("the hidden states are negated", lambda _: _after("last_hidden_state", "Mul", (-1.0, np.float32))),
    *_output("outputs are exchanged", lambda embedding: _outputs_exchanged(POOLED, embedding)),
    WrongExport("the metadata state another number", (TEXT,), "onnx", "graph", functools.partial(
        _in_file, stem=_TOWERS[TEXT][0], edit=_number_changed)),
    *(
        WrongExport(name, (role,), "onnx", "graph", functools.partial(_in_file, stem=stem, edit=edit))
        for name, edit in _BESIDE
        for role, stem in ((DECODER, _MERGED), *((role, stem) for role, (stem, _) in _TOWERS.items()))
    ),
)  # fmt: skip
