"""Build an ONNX graph whose weights lie in a file beside it: the one place where a codec becomes operators.

Graphs are written node by node, not traced: that takes a second and no memory, imports neither torch nor
transformers, and leaves the proof two independent sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.levels import Activations
from edgekit.errors import MissingDependencyError
from edgekit.formats.calibration import Range
from edgekit.formats.onnx.codecs import BlockCodec
from edgekit.formats.onnx.layout import Layout, TensorLayout
from edgekit.formats.onnx.names import METADATA

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"


class Graph:
    """A graph under construction. Values are names; every method adds nodes and returns what they give."""

    def __init__(
        self, name: str, layout: Layout, activations: Activations = "float", ranges: Mapping[str, Range] | None = None
    ) -> None:
        """Begin one.

        Args:
            activations: how a level rounds what enters matrices.
            ranges: matrix -> what enters it, where they are static.
        """
        self._name, self._layout, self._activations, self._ranges = name, layout, activations, ranges or {}
        self._helper = onnx().helper
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._quantized: dict[tuple[str, Range | None], tuple[str, ...]] = {}
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str], dtype: str = "FLOAT") -> str:
        """An input of the graph; dimensions are numbers or names."""
        self._inputs.append(self._info(name, shape, dtype))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str], dtype: str = "FLOAT") -> None:
        """Call a value an output of the graph; one that has the output's name already is not copied."""
        if value != name:
            self._nodes.append(self._helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(self._info(name, shape, dtype))

    def op(
        self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, named: str | None = None, **attributes: Any
    ) -> Any:
        """One operator; the name of its output (`named`, where one is given), or a tuple where there are several.

        Each has a row in `edgekit.formats.onnx.operators`; without one, what is written here is not opened.
        """
        self._count += 1
        stem = named or f"{kind.lower()}_{self._count}"
        names = [f"{stem}.{i}" if outputs > 1 else stem for i in range(outputs)]
        self._nodes.append(self._helper.make_node(kind, inputs, names, f"n{self._count}", None, domain, **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A small constant inside the graph; equal ones are stored once."""
        array = np.asarray(values, dtype)
        key = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{array.tobytes().hex()[:64]}"
        while key in self._initializers and not _equal(self._initializers[key], array):
            key += "_"
        if key not in self._initializers:
            self._initializers[key] = onnx().numpy_helper.from_array(array, key)
        return key

    def parameter(self, name: str) -> str:
        """A tensor of the checkpoint, float32, as a vector, a kernel or whatever it is."""
        (suffix,) = self._layout.tensors[name].arrays
        return self._as_float(self._stored(name, suffix), self._layout.tensors[name])

    def linear(self, value: str, name: str, bias: str | None = None) -> str:
        """A matrix of the checkpoint [outputs, inputs] applied to [..., inputs]."""
        codec = self._layout.tensors[name].codec
        if isinstance(codec, BlockCodec):
            result = self._by_blocks(value, name, codec)
        elif codec.operators == "channels":
            multiply = self._static if self._activations == "static" else self._dynamic
            result = multiply(value, name)
        else:
            result = self.op("MatMul", value, self.parameter(name))
        return self.op("Add", result, self.parameter(bias)) if bias else result

    def rows(self, ids: str, name: str) -> str:
        """Rows of a table of the checkpoint [rows, width] by id: [..., width] float32, by standard operators alone."""
        table = self._layout.tensors[name]
        codec = table.codec
        if not isinstance(codec, BlockCodec):
            (suffix,) = table.arrays
            return self._as_float(self.op("Gather", self._stored(name, suffix), ids, axis=0), table)
        width = table.planned.shape[1]
        packed = self.op("Gather", self._stored(name, f".{codec.name}"), ids, axis=0)
        scale = self.op("Gather", self._stored(name, ".scale"), ids, axis=0)
        if codec.bits == 4:
            low = self.op("BitwiseAnd", packed, self.constant(15, np.uint8))
            high = self.op("BitShift", packed, self.constant(4, np.uint8), direction="RIGHT")
            last = self.constant([-1], np.int64)
            pairs = [self.op("Unsqueeze", half, last) for half in (low, high)]
            packed = self.reshape(self.op("Concat", *pairs, axis=-1), [0, 0, 0, codec.size])
        centred = self.op("Sub", self.op("Cast", packed, to=1), self.constant(1 << (codec.bits - 1)))
        values = self.op("Mul", centred, self.op("Unsqueeze", scale, self.constant([-1], np.int64)))
        values = self.reshape(values, [0, 0, -1])
        return self.slice(values, 0, width) if width % codec.size else values

    def by_rows(self, value: str, name: str) -> str:
        """[n, width] times the rows of a table [rows, width]: [n, rows]. Gemma's output head is its embedding."""
        codec = self._layout.tensors[name].codec
        if isinstance(codec, BlockCodec):
            return self._by_blocks(value, name, codec)
        return str(self.op("Gemm", value, self.parameter(name), transB=1))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """ONNX Reshape: 0 keeps a dimension, -1 is what is left."""
        return str(self.op("Reshape", value, self.constant(shape, np.int64)))

    def slice(self, value: str, start: int, end: int, axis: int = -1) -> str:
        """Elements `start` to `end` of an axis."""
        bounds = [self.constant([number], np.int64) for number in (start, end, axis)]
        return str(self.op("Slice", value, *bounds))

    def model(self, numbers: Mapping[str, float]) -> bytes:
        """The finished model, serialized; the same calls give the same bytes.

        Args:
            numbers: that belong to the model and that no node computes with, for its metadata.
        """
        domains = sorted({node.domain for node in self._nodes})
        opsets = [self._helper.make_opsetid(domain, 1 if domain else OPSET) for domain in domains]
        graph = self._helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        model = self._helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgekit", producer_version=""
        )
        if numbers:
            self._helper.set_model_props(model, {f"{METADATA}{name}": repr(n) for name, n in numbers.items()})
        return bytes(model.SerializeToString(deterministic=True))

    # ------------------------------------------------------------ codecs as operators

    def _by_blocks(self, value: str, name: str, codec: BlockCodec) -> str:
        outputs, inputs = self._layout.tensors[name].planned.shape
        return str(
            self.op(
                "MatMulNBits",
                value,
                self._values(name),
                self._stored(name, ".scale"),
                domain=CONTRIB,
                K=inputs,
                N=outputs,
                bits=codec.bits,
                block_size=codec.size,
                # 4: as 8-bit integers, a scale for each block of the input; 1: as float32.
                accuracy_level=1 if self._activations == "float" else 4,
            )
        )

    def _static(self, value: str, name: str) -> str:
        """QDQ, which ONNX Runtime and OpenVINO both run as integer arithmetic."""
        (activation,) = self._once((value, self._ranges[name]), self._fake_quantize)
        weight = self.op(
            "DequantizeLinear", self._values(name), self._stored(name, ".scale"), self._zeros(name), axis=1
        )
        return str(self.op("MatMul", activation, weight))

    def _fake_quantize(self, value: str, limits: Range) -> tuple[str, ...]:
        """Asymmetric uint8: x86's integer dot products take unsigned activations and signed weights."""
        low, high = min(limits.low, 0.0), max(limits.high, 0.0)
        scale = np.float32(max(high - low, 1e-12) / 255)
        how = self.constant(scale), self.constant(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
        return (str(self.op("DequantizeLinear", self.op("QuantizeLinear", value, *how), *how)),)

    def _dynamic(self, value: str, name: str) -> str:
        """Integer arithmetic whose activations find their scales at run time: one for each row of the input.

        With one for the whole input (DynamicQuantizeLinear) an image's features would coarsen the text beside them,
        and what a token gets would depend on which others are decoded with it.
        """

        def quantize(value: str, _: Range | None) -> tuple[str, ...]:
            greatest = self.op("ReduceMax", self.op("Abs", value), self.constant([-1], np.int64))
            scale = self.op("Div", self.op("Max", greatest, self.constant(1e-12)), self.constant(127))
            rounded = self.op("Round", self.op("Div", value, scale))
            # Unsigned around 128: x86's integer dot products take unsigned activations and signed weights.
            return self.op("Cast", self.op("Add", rounded, self.constant(128)), to=2), scale

        quantized, scale = self._once((value, None), quantize)
        product = self.op("MatMulInteger", quantized, self._values(name), self.constant(128, np.uint8))
        scaled = self.op("Mul", self.op("Cast", product, to=1), scale)
        return str(self.op("Mul", scaled, self._stored(name, ".scale")))

    def _zeros(self, name: str) -> str:
        """Zero points of a symmetric matrix, though ONNX takes them for granted.

        ONNX Runtime, where it makes signed weights unsigned (`session.x64quantprecision`), rewrites them for each
        matrix: it fails where there are none, and where two matrices share them.
        """
        full = f"{name}.zero"
        outputs = self._layout.tensors[name].planned.shape[0]
        self._initializers[full] = onnx().numpy_helper.from_array(np.zeros(outputs, np.int8), full)
        return full

    def _once(self, key: tuple[str, Any], make: Any) -> tuple[str, ...]:
        """Matrices that share an input share its quantization."""
        if key not in self._quantized:
            self._quantized[key] = make(*key)
        return self._quantized[key]

    def _as_float(self, stored: str, table: TensorLayout) -> str:
        """Weights of 16 bits are computed with as float32: Gemma's activations go beyond what 16 bits hold."""
        return str(self.op("Cast", stored, to=1)) if table.codec.name == "float16" else stored

    def _values(self, name: str) -> str:
        """The quantized values of a matrix, which lie in the file under their codec's name."""
        return self._stored(name, f".{self._layout.tensors[name].codec.name}")

    def _stored(self, name: str, suffix: str) -> str:
        """The initializer, and its place in the data file."""
        full = name + suffix
        if full not in self._initializers:
            array = self._layout.tensors[name].arrays[suffix]
            tensor = onnx().TensorProto(name=full, data_type=array.element, dims=array.shape, data_location=1)
            places = {"location": self._layout.file, "offset": array.offset, "length": array.bytes}
            for key, value in places.items():
                tensor.external_data.add(key=key, value=str(value))
            self._initializers[full] = tensor
        return full

    def _info(self, name: str, shape: Iterable[int | str], dtype: str) -> Any:
        return self._helper.make_tensor_value_info(name, getattr(onnx().TensorProto, dtype), list(shape))


def onnx() -> Any:
    """onnx, or how to install it."""
    try:
        import onnx as module
    except ImportError as error:
        raise MissingDependencyError("ONNX export needs onnx", remedy="pip install 'edgekit[export]'") from error
    return module


def _equal(tensor: Any, array: NDArray[Any]) -> bool:
    return bool(np.array_equal(onnx().numpy_helper.to_array(tensor), array))
