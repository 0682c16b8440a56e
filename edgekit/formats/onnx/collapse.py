"""Each way in which codecs become operators, put back into the float operator that it stands for.

`edgekit.formats.onnx.graph` writes these operators; this says a second time, and apart from it, what they must be, so
that a graph at any level can be compared with the float graph of the same model. What is left as it was is no right
way, and differs from the float graph there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.artifacts.levels import Level
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.formats.calibration import Range
from edgekit.formats.onnx.codecs import CODECS, BlockCodec, OnnxCodec, Operators
from edgekit.formats.onnx.expressions import STORED, Expression, Pool
from edgekit.formats.onnx.layout import is_transposed

LINEAR = "matrix of the checkpoint"  # [..., inputs] times a stored matrix [outputs, inputs], transposed
_BLOCKS = "com.microsoft.MatMulNBits"
_PADDED = "rows in whole blocks"


@dataclass(frozen=True)
class Collapse:
    """The rules for the graphs of one part: an `edgekit.formats.onnx.expressions.Simplify`.

    Attributes:
        specs: the part's tensors by canonical name.
        ranges: matrix -> what enters it, of a level with static activations.
    """

    pool: Pool
    specs: Mapping[str, TensorSpec]
    level: Level
    ranges: Mapping[str, Range]

    def __call__(self, value: Expression) -> Expression:
        """What stands in its place."""
        rule = {
            "MatMul": self._product,
            "Gemm": self._product_by_rows,
            "Cast": self._halves,
            "Mul": self._dynamic,
            "Reshape": self._gathered,
            "Slice": self._cut,
            _BLOCKS: self._by_blocks,
        }.get(value.operator)
        return (rule(value) if rule else None) or value

    def _product(self, value: Expression) -> Expression | None:
        activation, weight = value.inputs
        if weight.attributes[1:] == ("FLOAT",) and self._transposed(name := weight.attributes[0]):
            return self._linear(activation, name)
        return self._static(activation, weight)

    def _product_by_rows(self, value: Expression) -> Expression | None:
        activation, weight, *bias = value.inputs
        if bias or weight.attributes[1:] != ("FLOAT",) or value.attributes != (("transB", 1),):
            return None
        name = weight.attributes[0]
        is_table = name in self.specs and len(self.specs[name].shape) == 2 and not self._transposed(name)
        return self._linear(activation, name) if is_table else None

    def _halves(self, value: Expression) -> Expression | None:
        """float16 that is computed with as float32: a tensor, or gathered rows of one."""
        (stored,) = value.inputs
        if value.attributes != (("to", 1),):
            return None
        half = stored.inputs[0] if stored.operator == "Gather" else stored
        if half.operator != STORED or half.attributes[1] != "FLOAT16":
            return None
        whole = self._stored(half.attributes[0])
        if half is stored:
            return whole
        return self.pool.make("Gather", whole, stored.inputs[1], attributes=stored.attributes)

    def _static(self, activation: Expression, weight: Expression) -> Expression | None:
        """Both sides rounded to 8 bits, by the measured range and by a scale for each output."""
        if self.level.activations != "static" or weight.operator != "DequantizeLinear":
            return None
        name, codec = self._held(weight.inputs[0], "channels")
        if codec is None or name not in self.ranges:
            return None
        zeros = self.pool.constant(np.zeros(self.specs[name].shape[0]), np.int8)
        stored = self._stored(f"{name}.{codec.name}", "INT8"), self._stored(f"{name}.scale"), zeros
        if weight is not self.pool.make("DequantizeLinear", *stored, attributes=[("axis", 1)]):
            return None
        low, high = min(self.ranges[name].low, 0.0), max(self.ranges[name].high, 0.0)
        scale = np.float32(max(high - low, 1e-12) / 255)
        how = self.pool.constant(scale), self.pool.constant(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
        value = _input(activation, "DequantizeLinear", "QuantizeLinear")
        if value is None:
            return None
        rounded = self.pool.make("DequantizeLinear", self.pool.make("QuantizeLinear", value, *how), *how)
        return self._linear(value, name) if activation is rounded else None

    def _dynamic(self, value: Expression) -> Expression | None:
        """Rows of the activation rounded to 8 bits by the largest number of each."""
        make, constant = self.pool.make, self.pool.constant
        inner = _input(value.inputs[0], "Mul", "Cast", "MatMulInteger", "Cast", "Add", "Round", "Div")
        product = _input(value.inputs[0], "Mul", "Cast")
        if self.level.activations != "dynamic" or inner is None or product is None:
            return None
        name, codec = self._held(product.inputs[1], "channels")
        if codec is None:
            return None
        greatest = make("ReduceMax", make("Abs", inner), constant([-1], np.int64))
        scale = make("Div", make("Max", greatest, constant(1e-12)), constant(127))
        unsigned = make("Add", make("Round", make("Div", inner, scale)), constant(128))
        rounded = make("Cast", unsigned, attributes=[("to", 2)])
        product = make("MatMulInteger", rounded, self._stored(f"{name}.{codec.name}", "INT8"), constant(128, np.uint8))
        scaled = make("Mul", make("Cast", product, attributes=[("to", 1)]), scale)
        return self._linear(inner, name) if value is make("Mul", scaled, self._stored(f"{name}.scale")) else None

    def _by_blocks(self, value: Expression) -> Expression | None:
        name, codec = self._held(value.inputs[1], "blocks")
        if not isinstance(codec, BlockCodec):
            return None
        outputs, inputs = self.specs[name].shape
        settings = {
            "K": inputs,
            "N": outputs,
            "bits": codec.bits,
            "block_size": codec.size,
            "accuracy_level": 1 if self.level.activations == "float" else 4,
        }
        stored = self._stored(f"{name}.{codec.name}", "UINT8"), self._stored(f"{name}.scale")
        right = self.pool.make(_BLOCKS, value.inputs[0], *stored, attributes=sorted(settings.items()))
        return self._linear(value.inputs[0], name) if value is right else None

    def _gathered(self, value: Expression) -> Expression | None:
        """Rows of a table in blocks, by standard operators."""
        packed = next((part for part in _inward(value) if part.operator == "Gather"), None)
        name, codec = self._held(packed.inputs[0], "blocks") if packed else ("", None)
        if packed is None or not isinstance(codec, BlockCodec):
            return None
        rows = self._rows(name, codec, packed.inputs[1])
        if value is not rows:
            return None
        padded = self.specs[name].shape[1] % codec.size
        operator = _PADDED if padded else "Gather"
        return self.pool.make(operator, self._stored(name), packed.inputs[1], attributes=[("axis", 0)])

    def _rows(self, name: str, codec: BlockCodec, ids: Expression) -> Expression:
        make, constant = self.pool.make, self.pool.constant

        def gather(suffix: str, kind: str) -> Expression:
            return make("Gather", self._stored(f"{name}.{suffix}", kind), ids, attributes=[("axis", 0)])

        last = constant([-1], np.int64)
        values = gather(codec.name, "UINT8")
        if codec.bits == 4:
            low = make("BitwiseAnd", values, constant(15, np.uint8))
            high = make("BitShift", values, constant(4, np.uint8), attributes=[("direction", "RIGHT")])
            pairs = [make("Unsqueeze", half, last) for half in (low, high)]
            values = make("Concat", *pairs, attributes=[("axis", -1)])
            values = make("Reshape", values, constant([0, 0, 0, codec.size], np.int64))
        numbers = make("Cast", values, attributes=[("to", 1)])
        centred = make("Sub", numbers, constant(1 << (codec.bits - 1)))
        scaled = make("Mul", centred, make("Unsqueeze", gather("scale", "FLOAT"), last))
        return make("Reshape", scaled, constant([0, 0, -1], np.int64))

    def _cut(self, value: Expression) -> Expression | None:
        """What fills a table's last block is cut off."""
        rows = value.inputs[0]
        if rows.operator != _PADDED:
            return None
        width = self.specs[rows.inputs[0].attributes[0]].shape[1]
        bounds = [self.pool.constant([number], np.int64) for number in (0, width, -1)]
        if value is not self.pool.make("Slice", rows, *bounds):
            return None
        return self.pool.make("Gather", *rows.inputs, attributes=rows.attributes)

    # ------------------------------------------------------------ names

    def _linear(self, value: Expression, name: str) -> Expression:
        return self.pool.make(LINEAR, value, self._stored(name))

    def _stored(self, name: str, kind: str = "FLOAT") -> Expression:
        return self.pool.make(STORED, attributes=(name, kind))

    def _held(self, value: Expression, operators: Operators) -> tuple[str, OnnxCodec | None]:
        """The tensor whose quantized values these are, and its codec, one that such operators read; None for others."""
        full = str(value.attributes[0]) if value.operator == STORED else ""
        for codec in CODECS.values():
            name = full.removesuffix(f".{codec.name}")
            if codec.operators == operators and name != full and name in self.specs:
                return name, codec
        return "", None

    def _transposed(self, name: str) -> bool:
        spec = self.specs.get(name)
        return spec is not None and is_transposed(spec, CODECS["float32"])


def _inward(value: Expression, most: int = 8) -> Sequence[Expression]:
    """A value, its first input, that one's first input, and so on."""
    way = [value]
    while way[-1].inputs and len(way) <= most:
        way.append(way[-1].inputs[0])
    return way


def _input(value: Expression, *operators: str) -> Expression | None:
    """What enters the innermost of these operators, each the first input of the one before; None for others."""
    for operator in operators:
        if value.operator != operator:
            return None
        value = value.inputs[0]
    return value
