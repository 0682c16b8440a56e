"""An image encoder's graph with what stands before and behind it: an image of any size in, a score of each label out.

The encoder's own nodes and tensors stay as they are in the artifact, so what was proven of them holds. Before them:
resize, as Pillow has it, and normalization, in the very operations of `edgekit.inputs.image`. Behind them: the labels'
vectors with the logit's scale folded in, its bias, and a sigmoid or a softmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.classifier.card import IMAGE, LOGITS, SCORES
from edgekit.errors import ArtifactError, UsageError
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.nodes import FLOAT, INT, STRING
from edgekit.formats.onnx.operators import OPERATORS, Attribute, Input, Operator
from edgekit.runtime.base import Float
from edgekit.runtime.model import Scores

_FLOAT, _UINT8 = 1, 2  # TensorProto.DataType
_OWN = "classifier."  # what names of nodes and values here begin with
_HEIGHT_FIRST = 13  # the first Pillow that may begin with the height
_LEAST_OPSET = 18  # the first whose Resize averages where it makes smaller
# Pillow's filters in ONNX: cubic with a = -0.5, and no weight for what lies outside. Beside Pillow, whose sums are
# rounded likewise, a value of some thousandth of all is another by 1 of 255. ONNX's nearest breaks ties otherwise.
_EDGES = {"antialias": 1, "exclude_outside": 1}
_RESIZES: Mapping[str, Mapping[str, Any]] = {
    "bilinear": {"mode": "linear", **_EDGES},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, **_EDGES},
}

# What a classifier's graph may hold beside what parts may.
TABLE: Mapping[tuple[str, str], Operator] = {
    **OPERATORS,
    ("", "Resize"): Operator(
        (
            Input({"UINT8"}),
            Input({"FLOAT"}, (1, 1), stored=True, empty=True),
            Input({"FLOAT"}, (1, 1), stored=True, empty=True),
            Input({"INT64"}, (1, 1)),
        ),
        {
            "mode": Attribute(STRING, values=("linear", "cubic")),
            "antialias": Attribute(INT, 1, 1),
            "exclude_outside": Attribute(INT, 1, 1),
            "cubic_coeff_a": Attribute(FLOAT, values=(-0.5,), required=False),
        },
        shapes=lambda node, tensors: tensors[3] is None or tensors[3].shape == (4,),
    ),
    ("", "Sigmoid"): Operator((Input({"FLOAT"}),)),
}


@dataclass(frozen=True)
class Head:
    """What turns an image's vector into scores.

    Attributes:
        vectors: of the labels, unit, [labels, width].
        scale: that a cosine is multiplied by, and `bias` added to it.
    """

    vectors: Float
    scale: float
    bias: float
    scores: Scores


def classifier(encoder: Any, output: str, preprocessing: Preprocessing, head: Head) -> Any:
    """The whole model, as an `onnx.ModelProto`; weights that lie outside still do.

    Args:
        encoder: the part's `onnx.ModelProto`, whose one input are pixels.
        output: of its outputs, the vector of an image, of any length.

    Raises:
        UsageError: no ONNX operator resizes in this way.
        ArtifactError: the encoder's graph is too old for one that does.
    """
    if preprocessing.resample not in _RESIZES:
        resample = f"{preprocessing.resample} images: ONNX has no operator for that"
        raise UsageError(f"a classifier of {resample}", allowed=", ".join(_RESIZES))
    opset = next((one.version for one in encoder.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < _LEAST_OPSET:
        raise ArtifactError(f"the encoder's graph is of opset {opset}", allowed=f"{_LEAST_OPSET} or newer")
    model = onnx().ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    (pixels,) = (value.name for value in graph.input)
    before, after = _Nodes(), _Nodes()
    _prepare(before, preprocessing, pixels)
    _score(after, output, head)
    kept = _needed(graph.node, output)
    del model.metadata_props[:]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.name = "classifier"
    graph.node.extend([*before.nodes, *kept, *after.nodes])
    read = {name for node in graph.node for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*before.tensors, *after.tensors, *stored])
    info, labels = onnx().helper.make_tensor_value_info, len(head.vectors)
    graph.input.append(info(IMAGE, _UINT8, [1, "height", "width", 3]))
    graph.output.extend(info(name, _FLOAT, [1, labels]) for name in (SCORES, LOGITS))
    return model


def preparing(model: Any) -> Any:
    """The nodes of a classifier up to its encoder, as an `onnx.ModelProto` of their own, without its weights.

    Raises:
        ArtifactError: there are none.
    """
    last = next((at for at, node in enumerate(model.graph.node) if node.name.startswith(f"{_OWN}Div.")), None)
    if last is None:
        raise ArtifactError("a classifier whose graph does not prepare images")
    part = onnx().ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "preparation"
    part.graph.node.extend(model.graph.node[: last + 1])
    read = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.input.extend(model.graph.input)
    part.graph.output.append(onnx().helper.make_tensor_value_info(model.graph.node[last].output[0], _FLOAT, None))
    return part


def _prepare(nodes: _Nodes, preprocessing: Preprocessing, pixels: str) -> None:
    """uint8 [1, height, width, 3] to what the encoder takes; see `edgekit.inputs.image.normalize`."""
    side, how = preprocessing.size, _RESIZES[preprocessing.resample]
    nothing = nodes.constant("nothing", np.zeros(0, np.float32))
    sides = nodes.constant("sides", np.asarray([1, 3, side, side], np.int64))
    channels = nodes.op("Transpose", IMAGE, perm=[0, 3, 1, 2])
    once = nodes.op("Resize", channels, nothing, nothing, _first_pass(nodes, channels, side), **how)
    resized = nodes.op("Resize", once, nothing, nothing, sides, **how)
    mean, deviation = (np.asarray(row, np.float32).reshape(3, 1, 1) for row in (preprocessing.mean, preprocessing.std))
    scaled = nodes.op("Mul", nodes.op("Cast", resized, to=_FLOAT), nodes.constant("share", np.float32(1 / 255)))
    centred = nodes.op("Sub", scaled, nodes.constant("mean", mean))
    nodes.op("Div", centred, nodes.constant("deviation", deviation), named=pixels)


def _first_pass(nodes: _Nodes, channels: str, side: int) -> str:
    """The shape after one of two passes, each of which rounds to 8 bits, so that their order shows.

    Pillow resizes the width first. From 13 on it begins with the height where that loses more than twice as many
    pixels (found by experiment, at all sizes from 2 to 60 for squares of 16).
    """
    height, width = (nodes.op("Shape", channels, start=axis, end=axis + 1) for axis in (2, 3))
    short = nodes.constant("side", np.asarray([side], np.int64))
    first = height, short
    if int(PIL.__version__.split(".")[0]) >= _HEIGHT_FIRST:
        down, across = (nodes.op("Sub", length, short) for length in (height, width))
        twice = nodes.op("Mul", across, nodes.constant("twice", np.asarray([2], np.int64)))
        tall = nodes.op("Greater", down, nodes.op("Max", twice, nodes.constant("none", np.asarray([0], np.int64))))
        first = nodes.op("Where", tall, short, height), nodes.op("Where", tall, width, short)
    return nodes.op("Concat", nodes.constant("colours", np.asarray([1, 3], np.int64)), *first, axis=0)


def _score(nodes: _Nodes, output: str, head: Head) -> None:
    unit = nodes.op("LpNormalization", output, axis=-1, p=2)
    scaled = (head.vectors.astype(np.float64) * head.scale).astype(np.float32)
    products = nodes.op("Gemm", unit, nodes.constant("labels", scaled), transB=1)
    logits = nodes.op("Add", products, nodes.constant("bias", np.float32(head.bias)), named=LOGITS)
    if head.scores == "softmax":
        nodes.op("Softmax", logits, named=SCORES, axis=-1)
    else:
        nodes.op("Sigmoid", logits, named=SCORES)


def _needed(nodes: Sequence[Any], output: str) -> list[Any]:
    """Those that a value is computed of, in their order."""
    wanted, needed = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            needed.append(node)
    return needed[::-1]


class _Nodes:
    """Nodes and small tensors by names that no encoder's have."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def op(self, kind: str, *inputs: str, named: str | None = None, **attributes: Any) -> str:
        """One operator; the name of what it gives."""
        name = named or f"{_OWN}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx().helper.make_node(kind, inputs, [name], f"{_OWN}{kind}.{name}", None, "", **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        """A tensor in the graph."""
        array = np.asarray(values)
        self.tensors.append(onnx().numpy_helper.from_array(array, f"{_OWN}{name}"))
        return f"{_OWN}{name}"
