"""What nodes of a graph must be: one row for each operator that edgekit's graphs are made of, all others are refused.

Runtimes take much of it for granted. ONNX Runtime reads an optional input that is there by name only from address 0,
and OpenVINO divides by a block's size of 0. So inputs are counted and none may be left out, attributes have a type and
a range, and tensors of the file that enter a node the element types and ranks that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import read
from edgekit.formats.onnx.model import OnnxHeader, OnnxNode, OnnxTensor, OnnxValue
from edgekit.formats.onnx.nodes import FLOAT, INT, INTS, STRING

_MOST = 1 << 24
_KINDS = {FLOAT: "a float", INT: "a whole number", INTS: "whole numbers", STRING: "a text"}
_OPSETS = range(18, 27)  # of ai.onnx: axes of reductions are inputs since 18


@dataclass(frozen=True)
class Attribute:
    """What an attribute must be.

    Attributes:
        kind: `AttributeProto.AttributeType`.
        least, most: of a number, or of each of several.
        values: the only ones, where these are few.
        required: whether it must be there.
    """

    kind: int
    least: float = 0
    most: float = _MOST
    values: tuple[object, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Input:
    """What a tensor of the file must be to enter a node; what other nodes give, runtimes infer.

    Attributes:
        types: of its elements.
        ranks: least and greatest.
        stored: whether it must be a tensor of the file.
        empty: whether it must be one without numbers: an input that is left out, in operators with others behind it.
    """

    types: Collection[str]
    ranks: tuple[int, int] = (0, 4)
    stored: bool = False
    empty: bool = False


Tensors = Sequence[OnnxTensor | None]  # what enters a node; None for what is no tensor of the file
Shapes = Callable[[OnnxNode, Tensors], bool]


@dataclass(frozen=True)
class Operator:
    """One row.

    Attributes:
        inputs: in order, all of which must be there but the last `optional`; `more` may follow, each like the last.
            What is left out ends the list: an input without a name is none.
        shapes: whether the shapes of tensors fit each other and the attributes.
    """

    inputs: tuple[Input, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    more: int = 0
    shapes: Shapes = lambda node, tensors: True
    optional: int = 0


# ---------------------------------------------------------------- shapes


def _whole(node: OnnxNode, name: str) -> int:
    value = node.attributes[name][1]
    return value if isinstance(value, int) else 0


def _blocks_fit(node: OnnxNode, tensors: Tensors) -> bool:
    """MatMulNBits: [N, blocks of a row, bytes of a block] and a scale for each block."""
    _, values, scales = tensors
    rows, width, bits, size = (_whole(node, name) for name in ("N", "K", "bits", "block_size"))
    blocks = -(-width // size)
    assert values, "is stored"
    assert scales, "is stored"
    return values.shape == (rows, blocks, size * bits // 8) and scales.shape in ((rows, blocks), (rows * blocks,))


def _kernel_fits(node: OnnxNode, tensors: Tensors) -> bool:
    """Conv: [outputs, inputs, height, width] as `kernel_shape` says, and a bias for each output or none."""
    _, weight, *biases = tensors
    kernel, strides = node.attributes["kernel_shape"][1], node.attributes["strides"][1]
    assert weight, "is stored"
    two = isinstance(strides, tuple) and len(strides) == 2
    return two and weight.shape[2:] == kernel and all(bias and bias.shape == weight.shape[:1] for bias in biases)


def _is_square(node: OnnxNode, tensors: Tensors) -> bool:
    """AveragePool: two sides and two strides."""
    sides = [node.attributes[name][1] for name in ("kernel_shape", "strides")]
    return all(isinstance(side, tuple) and len(side) == 2 for side in sides)


def _same(*positions: int) -> Shapes:
    """Whether the tensors there have one shape, as far as they are known."""

    def check(node: OnnxNode, tensors: Tensors) -> bool:
        shapes = {tensor.shape for at in positions if at < len(tensors) and (tensor := tensors[at])}
        return len(shapes) <= 1

    return check


def _is_permutation(node: OnnxNode, tensors: Tensors) -> bool:
    order = node.attributes["perm"][1]
    return isinstance(order, tuple) and sorted(order) == list(range(len(order)))


def _has_one_number(node: OnnxNode, tensors: Tensors) -> bool:
    """Bounds and axes that have exactly one number each, as they are written here."""
    return all(math.prod(tensor.shape) == 1 for tensor in tensors[1:] if tensor)


# ---------------------------------------------------------------- the table

_FLOATS, _INT64, _UINT8, _INT8 = {"FLOAT"}, {"INT64"}, {"UINT8"}, {"INT8"}
_NUMBERS = {"FLOAT", "INT64"}
_ANY = Input({"FLOAT", "FLOAT16", "INT64", "INT8", "UINT8"})
_NUMBER, _REAL, _WHOLE = Input(_NUMBERS), Input(_FLOATS), Input(_INT64)
_SIDES = Input(_INT64, (1, 1))  # of a shape, or axes
_FIXED_SIDES = Input(_INT64, (1, 1), stored=True)
_AXIS = Attribute(INT, -8, 8)

_UNARY = Operator((_REAL,))
_BINARY = Operator((_NUMBER, _NUMBER))
_COMPARED = Operator((_NUMBER, _NUMBER))
_LOGICAL = Operator((Input({"BOOL"}),) * 2)
_REDUCED = Operator((_REAL, _FIXED_SIDES), {"keepdims": Attribute(INT, 0, 1, required=False)})
_PER_CHANNEL = {"axis": Attribute(INT, 0, 8, required=False)}

OPERATORS: Mapping[tuple[str, str], Operator] = {
    ("", "Abs"): _UNARY,
    ("", "Add"): _BINARY,
    ("", "And"): _LOGICAL,
    ("", "AveragePool"): Operator(
        (_REAL,), {"kernel_shape": Attribute(INTS, 1, 4096), "strides": Attribute(INTS, 1, 4096)}, shapes=_is_square
    ),
    ("", "BitShift"): Operator((Input(_UINT8),) * 2, {"direction": Attribute(STRING, values=("LEFT", "RIGHT"))}),
    ("", "BitwiseAnd"): Operator((Input(_UINT8),) * 2),
    ("", "Cast"): Operator((_ANY,), {"to": Attribute(INT, values=(1, 2, 3, 6, 7, 9, 10))}),
    ("", "Concat"): Operator((_ANY,), {"axis": _AXIS}, more=7),
    ("", "Conv"): Operator(
        (_REAL, Input(_FLOATS, (4, 4), stored=True), Input(_FLOATS, (1, 1), stored=True)),
        {"kernel_shape": Attribute(INTS, 1, 4096), "strides": Attribute(INTS, 1, 4096)},
        shapes=_kernel_fits,
        optional=1,
    ),
    ("", "Cos"): _UNARY,
    ("", "DequantizeLinear"): Operator(
        (Input(_INT8 | _UINT8), Input(_FLOATS, (0, 1), stored=True), Input(_INT8 | _UINT8, (0, 1), stored=True)),
        _PER_CHANNEL,
        shapes=_same(1, 2),
    ),
    ("", "Div"): _BINARY,
    ("", "Equal"): _COMPARED,
    ("", "Expand"): Operator((_ANY, _SIDES)),
    ("", "Gather"): Operator((_ANY, _WHOLE), {"axis": Attribute(INT, -8, 8, required=False)}),
    ("", "Gelu"): Operator((_REAL,), {"approximate": Attribute(STRING, values=("none", "tanh"))}),
    ("", "Gemm"): Operator((_REAL, Input(_FLOATS, (2, 2))), {"transB": Attribute(INT, 0, 1)}),
    ("", "Greater"): _COMPARED,
    ("", "GreaterOrEqual"): _COMPARED,
    ("", "Identity"): Operator((_ANY,)),
    ("", "LayerNormalization"): Operator(
        (_REAL, Input(_FLOATS, (1, 1)), Input(_FLOATS, (1, 1))), {"epsilon": Attribute(FLOAT, 0, 1)}, shapes=_same(1, 2)
    ),
    ("", "Less"): _COMPARED,
    ("", "LpNormalization"): Operator((_REAL,), {"axis": _AXIS, "p": Attribute(INT, 1, 2)}),
    ("", "MatMul"): Operator((_REAL, Input(_FLOATS, (2, 4)))),
    ("", "MatMulInteger"): Operator(
        (Input(_UINT8), Input(_INT8, (2, 2), stored=True), Input(_UINT8, (0, 0), stored=True))
    ),
    ("", "Max"): _BINARY,
    ("", "Mod"): _BINARY,
    ("", "Mul"): _BINARY,
    ("", "Or"): _LOGICAL,
    ("", "Pow"): _BINARY,
    ("", "QuantizeLinear"): Operator(
        (_REAL, Input(_FLOATS, (0, 1), stored=True), Input(_INT8 | _UINT8, (0, 1), stored=True)),
        _PER_CHANNEL,
        shapes=_same(1, 2),
    ),
    ("", "Range"): Operator((Input(_INT64, (0, 0)),) * 3),
    ("", "ReduceMax"): _REDUCED,
    ("", "ReduceMean"): _REDUCED,
    ("", "Reshape"): Operator((_ANY, _FIXED_SIDES)),
    ("", "Round"): _UNARY,
    ("", "ScatterND"): Operator((_REAL, _WHOLE, _REAL)),
    ("", "Shape"): Operator((_ANY,), {name: Attribute(INT, -8, 8, required=False) for name in ("start", "end")}),
    ("", "Sin"): _UNARY,
    ("", "Slice"): Operator((_ANY, _FIXED_SIDES, _FIXED_SIDES, _FIXED_SIDES), shapes=_has_one_number),
    ("", "Softmax"): Operator((_REAL,), {"axis": _AXIS}),
    ("", "Sqrt"): _UNARY,
    ("", "Squeeze"): Operator((_ANY, _FIXED_SIDES), optional=1),
    ("", "Sub"): _BINARY,
    ("", "Tile"): Operator((_ANY, _FIXED_SIDES)),
    ("", "Transpose"): Operator((_ANY,), {"perm": Attribute(INTS, 0, 7)}, shapes=_is_permutation),
    ("", "Unsqueeze"): Operator((_ANY, _FIXED_SIDES)),
    ("", "Where"): Operator((Input({"BOOL"}), _NUMBER, _NUMBER)),
    ("com.microsoft", "MatMulNBits"): Operator(
        (_REAL, Input(_UINT8, (3, 3), stored=True), Input(_FLOATS, (1, 2), stored=True)),
        {
            "K": Attribute(INT, 1),
            "N": Attribute(INT, 1),
            "bits": Attribute(INT, values=(4, 8)),
            "block_size": Attribute(INT, values=(16, 32, 64, 128, 256)),
            "accuracy_level": Attribute(INT, 0, 4, required=False),
        },
        shapes=_blocks_fit,
    ),
    ("com.microsoft", "MultiHeadAttention"): Operator((_REAL,) * 3, {"num_heads": Attribute(INT, 1, 1024)}),
}


def read_checked(
    path: Path, listed: Collection[Path] | None = None, table: Mapping[tuple[str, str], Operator] = OPERATORS
) -> OnnxHeader:
    """Read an ONNX file that a runtime can be trusted with.

    Args:
        listed: see `edgekit.formats.onnx.header.read`.
        table: what nodes may be.

    Raises:
        ArtifactError: as `read`; or a node is of an unknown operator, has other inputs, outputs or attributes than that
            one, or reads what nothing before it gives.
    """
    checker = _Checker(path, table)
    header = read(path, listed, checker)
    if (opset := header.opsets.get("", _OPSETS[0])) not in _OPSETS:
        raise ArtifactError(f"{path}: opset {opset}", allowed=f"{_OPSETS[0]} to {_OPSETS[-1]}")
    for value in header.outputs:
        checker.check_given(value.name, "the graph")
    return header


class _Checker:
    """Holds nodes to their rows: `edgekit.formats.onnx.model.Visitor`."""

    def __init__(self, path: Path, table: Mapping[tuple[str, str], Operator]) -> None:
        self._path, self._table = path, table
        self._tensors: dict[str, OnnxTensor] = {}
        self._given: set[str] = set()

    def begin(self, inputs: Sequence[OnnxValue], tensors: Sequence[OnnxTensor]) -> None:
        """See `Visitor`."""
        self._tensors = {tensor.name: tensor for tensor in tensors}
        for value in inputs:  # old files list weights among the inputs
            if value.name not in self._tensors:
                self._give(value.name, "the graph's inputs")
        self._given.update(self._tensors)

    def node(self, node: OnnxNode) -> None:
        """See `Visitor`."""
        what = f"{node.domain or 'ai.onnx'}.{node.operator} {node.name!r:.100}"
        row = self._table.get((node.domain, node.operator))
        if row is None:
            known = ", ".join(name for _, name in self._table)
            raise self._wrong(f"{what}: an operator that no graph of edgekit's has", known)
        least, most = len(row.inputs) - row.optional, len(row.inputs) + row.more
        if not least <= len(node.inputs) <= most or len(node.outputs) != 1:
            said = f"{len(node.inputs)} inputs and {len(node.outputs)} outputs"
            raise self._wrong(f"{what} has {said}", f"{least} to {most} inputs and one output")
        for name in node.inputs:
            self.check_given(name, what)
        self._check_attributes(node, row, what)
        tensors = [self._tensors.get(name) for name in node.inputs]
        for at, tensor in enumerate(tensors):
            self._check_input(row.inputs[min(at, len(row.inputs) - 1)], tensor, f"{what}: input {at}")
        if not row.shapes(node, tensors):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors if tensor)
            raise self._wrong(f"{what}: its attributes and the shapes {shapes} do not fit each other")
        self._give(node.outputs[0], what)

    def check_given(self, name: str, what: str) -> None:
        """Raise ArtifactError for a value that nothing gives, or has no name."""
        if name not in self._given:
            raise self._wrong(f"{what} reads {name!r:.100}, which nothing before it gives")

    def _give(self, name: str, what: str) -> None:
        if not name or name in self._given:
            raise self._wrong(f"{what} gives {name!r:.100}, which has no name or is given twice")
        self._given.add(name)

    def _check_attributes(self, node: OnnxNode, row: Operator, what: str) -> None:
        for name, (kind, value) in node.attributes.items():
            rule = row.attributes.get(name)
            if rule is None:
                raise self._wrong(f"{what} has an attribute {name!r:.60}", ", ".join(row.attributes) or "none")
            if kind != rule.kind:
                raise self._wrong(f"{what}: {name} is of type {kind}", f"{_KINDS[rule.kind]}, type {rule.kind}")
            numbers = value if isinstance(value, tuple) else (value,)
            inside = value in rule.values if rule.values else all(_is_within(one, rule) for one in numbers)
            if not inside:
                allowed = " or ".join(map(str, rule.values)) or f"{rule.least:g} to {rule.most:g}"
                raise self._wrong(f"{what}: {name} is {value!r:.60}", allowed)
        missing = [name for name, rule in row.attributes.items() if rule.required and name not in node.attributes]
        if missing:
            raise self._wrong(f"{what} has no {missing[0]}")

    def _check_input(self, rule: Input, tensor: OnnxTensor | None, what: str) -> None:
        if tensor is None:
            if rule.stored:
                raise self._wrong(f"{what} is computed", "a tensor of the file")
            return
        least, most = rule.ranks
        sides = least <= len(tensor.shape) <= most and (0 in tensor.shape) == rule.empty
        if tensor.type not in rule.types or not sides:
            allowed = f"{' or '.join(sorted(rule.types))} of {least} to {most} sides{', empty' if rule.empty else ''}"
            raise self._wrong(f"{what} is {tensor.type} {list(tensor.shape)}", allowed)

    def _wrong(self, what: str, allowed: str | None = None) -> ArtifactError:
        return ArtifactError(f"{self._path}: {what}", allowed=allowed, remedy="export the model again")


def _is_within(value: object, rule: Attribute) -> bool:
    return isinstance(value, int | float) and rule.least <= value <= rule.most
