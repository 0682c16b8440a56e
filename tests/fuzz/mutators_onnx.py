"""ONNX files whose nodes, attributes and tensors contradict each other, in well-formed protobuf.

Only the graph is changed; a data file beside it stays as it is, and what is said of it is kept inside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from edgekit.formats.onnx.header import TYPES
from edgekit.runtime import trial
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions

_NUMBERS = (0, 1, -1, 2, 3, 7, 16, 31, 32, 33, 64, 127, 128, 255, 1 << 16, 1 << 20, 1 << 31, -(1 << 31), (1 << 63) - 1)
_REALS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"))
_TEXTS = (b"", b"tanh", b"none", b"RIGHT", b"LEFT", b"NOTSET", b"SAME_UPPER", b"VALID", b"x" * 5000, b"\xff")
_NAMES = ("axis", "to", "perm", "axes", "epsilon", "num_heads", "K", "N", "bits", "block_size", "accuracy_level",
          "kernel_shape", "strides", "pads", "dilations", "group", "auto_pad", "ceil_mode", "count_include_pad",
          "transB", "transA", "alpha", "beta", "start", "end", "direction", "approximate", "p", "keepdims", "reduction",
          "fmod", "allowzero", "noop_with_empty_axes", "stash_type", "block_size", "saturate", "scale",
          "unidirectional", "mask_filter_value", "output_dtype", "precision")  # fmt: skip
_OPERATORS = ("Identity", "Neg", "Relu", "Loop", "If", "Scan", "Gather", "GatherND", "Scatter", "Resize", "TopK",
              "Dropout", "BatchNormalization", "Einsum", "NonZero", "Split", "Pad", "Upsample", "ConstantOfShape",
              "RandomNormal", "QLinearMatMul", "Attention", "LSTM")  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A right ONNX graph with one to three things wrong, or at least otherwise, in it."""
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _CHANGES[rng.randrange(len(_CHANGES))](rng, model.graph)
    if rng.random() < 0.02:
        rng.choice(model.opset_import).version = rng.choice((1, 7, 13, 18, 20, 22, 25))
    return bytes(model.SerializeToString())


def differential(file: EncoderFile | DecoderFile, backend: str = "onnxruntime") -> str | None:
    """How a runtime died on a part, in a process of its own; None where it lived, whatever it answered."""
    decodes = isinstance(file, DecoderFile)
    piece = trial.Piece("part", backend, "onnx", decodes, file.to_json(), RunOptions(2))
    return trial.died([piece], limit_s=60)


# ---------------------------------------------------------------- what may be changed


def _node(rng: random.Random, graph: GraphProto) -> NodeProto:
    """Of any operator alike, though there are a hundred of one and one of another."""
    operators = sorted({node.op_type for node in graph.node})
    operator = rng.choice(operators)
    return rng.choice([node for node in graph.node if node.op_type == operator])


def _names(graph: GraphProto) -> list[str]:
    return [name for node in graph.node for name in (*node.input, *node.output)]


def _empty_input(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    if node.input:
        node.input[rng.randrange(len(node.input))] = ""


def _add_input(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    node.input.extend(rng.choice(("", "", rng.choice(_names(graph)))) for _ in range(rng.choice((1, 1, 2, 5))))


def _add_constant_input(rng: random.Random, graph: GraphProto) -> None:
    """An optional input that is there, of any type and shape."""
    node, name = _node(rng, graph), f"added_{len(graph.initializer)}"
    shape = rng.choice(((), (0,), (1,), (2,), (160,), (1, 1), (3, 4)))
    kind = rng.choice((TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL))
    graph.initializer.append(helper.make_tensor(name, kind, shape, [1] * math.prod(shape)))
    if node.input and rng.random() < 0.5:
        node.input[rng.randrange(len(node.input))] = name
    else:
        node.input.extend(("",) * rng.choice((0, 0, 1, 2)))
        node.input.append(name)


def _remove_input(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    if node.input:
        del node.input[rng.randrange(len(node.input)) :]


def _swap_input(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(graph))


def _outputs(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    how = rng.randrange(4)
    if how == 0:
        node.output[0] = ""
    elif how == 1:
        node.output.extend(["more", "", "most"][: rng.choice((1, 2, 3))])
    elif how == 2:
        node.output[0] = rng.choice(_names(graph))
    else:
        del node.output[:]


def _attribute(rng: random.Random, graph: GraphProto) -> None:
    """One that is there, with another value, of the same type or another; or one removed."""
    node = _node(rng, graph)
    if not node.attribute:
        return _add_attribute(rng, graph)
    one = rng.choice(node.attribute)
    how = rng.randrange(4)
    if how == 0:
        node.attribute.remove(one)
    elif how == 1:
        one.CopyFrom(_random_attribute(rng, one.name))
    elif one.type == AttributeProto.INTS:
        if one.ints and rng.random() < 0.5:
            one.ints[rng.randrange(len(one.ints))] = rng.choice(_NUMBERS)
        else:
            del one.ints[rng.randrange(len(one.ints) + 1) :]
            one.ints.extend(rng.choice(_NUMBERS) for _ in range(rng.randrange(3)))
    elif one.type == AttributeProto.INT:
        one.i = rng.choice(_NUMBERS)
    elif one.type == AttributeProto.FLOAT:
        one.f = rng.choice(_REALS)
    else:
        one.s = rng.choice(_TEXTS)
    return None


def _random_attribute(rng: random.Random, name: str) -> AttributeProto:
    made = AttributeProto(name=name)
    kind = rng.choice(("INT", "INT", "INTS", "FLOAT", "FLOATS", "STRING", "TENSOR", "UNDEFINED"))
    made.type = AttributeProto.AttributeType.Value(kind)
    made.i = rng.choice(_NUMBERS) if kind == "INT" else 0
    if kind == "INTS":
        made.ints.extend(rng.choice(_NUMBERS) for _ in range(rng.randrange(6)))
    elif kind == "FLOAT":
        made.f = rng.choice(_REALS)
    elif kind == "FLOATS":
        made.floats.extend(rng.choice(_REALS) for _ in range(rng.randrange(3)))
    elif kind == "STRING":
        made.s = rng.choice(_TEXTS)
    elif kind == "TENSOR":
        made.t.CopyFrom(helper.make_tensor("", TensorProto.FLOAT, (1,), [1.0]))
    return made


def _add_attribute(rng: random.Random, graph: GraphProto) -> None:
    _node(rng, graph).attribute.append(_random_attribute(rng, rng.choice(_NAMES)))


def _operator(rng: random.Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    node.op_type = rng.choice((_node(rng, graph).op_type, rng.choice(_OPERATORS)))
    if rng.random() < 0.3:
        node.domain = rng.choice(("", "com.microsoft", "ai.onnx", "ai.onnx.ml"))


def _tensor(rng: random.Random, graph: GraphProto) -> None:
    """Another shape or type of an initializer, whose data has the size that this takes."""
    if not graph.initializer:
        return
    small = [one for one in graph.initializer if not one.external_data] or list(graph.initializer)
    one = rng.choice(small if rng.random() < 0.5 else graph.initializer)
    how = rng.randrange(5)
    if how == 0 and one.dims:
        one.dims[rng.randrange(len(one.dims))] = rng.choice((0, 1, 2, 3, 5, 7, 16, 64, 100, 256))
    elif how == 1:
        one.dims[:] = list(reversed(one.dims))
    elif how == 2:
        one.dims.append(1)
    elif how == 3 and one.dims:
        one.dims.pop()
    else:
        one.data_type = rng.choice([number for number in TYPES if number != TensorProto.STRING])
    _fit(rng, one)


def _values(rng: random.Random, graph: GraphProto) -> None:
    """Other values of a small constant: sides of a Reshape, bounds of a Slice, indices of a Gather."""
    whole = [one for one in graph.initializer if one.data_type == TensorProto.INT64 and not one.external_data]
    if whole:
        one = rng.choice(whole)
        array = onnx.numpy_helper.to_array(one).copy()
        at = rng.randrange(max(array.size, 1))
        array.reshape(-1)[at : at + 1] = rng.choice(_NUMBERS)
        one.CopyFrom(onnx.numpy_helper.from_array(array, one.name))


def _fit(rng: random.Random, one: TensorProto) -> None:
    bits = TYPES[one.data_type][1]
    size = -(-math.prod(one.dims) * bits // 8)
    if size > 1 << 22:
        return
    places = {entry.key: entry for entry in one.external_data}
    if "length" in places and "offset" in places:
        places["offset"].value = str(min(int(places["offset"].value), 4096))
        places["length"].value = str(size)
    else:
        raw = one.raw_data[:size].ljust(size, bytes([rng.randrange(256)]))
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"):
            one.ClearField(field)
        one.raw_data = raw


def _move(rng: random.Random, graph: GraphProto) -> None:
    """A node removed, doubled or in another place."""
    node = _node(rng, graph)
    how = rng.randrange(3)
    copy = NodeProto()
    copy.CopyFrom(node)
    if how != 1:
        graph.node.remove(node)
    if how:
        graph.node.insert(rng.randrange(len(graph.node) + 1), copy)


def _value_info(rng: random.Random, graph: GraphProto) -> None:
    """An input's or an output's name, type or shape."""
    one = rng.choice((*graph.input, *graph.output))
    how = rng.randrange(4)
    shape = one.type.tensor_type.shape
    if how == 0:
        one.name = rng.choice(_names(graph))
    elif how == 1:
        one.type.tensor_type.elem_type = rng.choice(list(TYPES))
    elif how == 2 and shape.dim:
        rng.choice(shape.dim).dim_value = rng.choice((0, 1, 2, 3, 7, 64, 1 << 31))
    else:
        shape.dim.add()


def _listed_weight(rng: random.Random, graph: GraphProto) -> None:
    """An initializer that is an input, too, or has an output's name."""
    if graph.initializer:
        one = rng.choice(graph.initializer)
        if rng.random() < 0.5:
            graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)))
        else:
            one.name = rng.choice(_names(graph))


_Change = Callable[[random.Random, GraphProto], None]
_CHANGES: tuple[_Change, ...] = (
    *(_empty_input,) * 4, *(_add_input,) * 3, *(_add_constant_input,) * 3, *(_remove_input,) * 2, *(_swap_input,) * 3,
    *(_outputs,) * 2, *(_attribute,) * 5, *(_add_attribute,) * 3, *(_operator,) * 2, *(_tensor,) * 4, *(_values,) * 3,
    _move, *(_value_info,) * 2, _listed_weight,
)  # fmt: skip
