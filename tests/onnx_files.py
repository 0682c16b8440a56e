"""ONNX files for tests, right and wrong: by onnx's own helpers, and byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

DATA_BYTES = 64  # of the data file beside a graph


def put(folder: Path, content: bytes) -> Path:
    """A graph with a data file beside it."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    (folder / "model.onnx_data").write_bytes(bytes(DATA_BYTES))
    return path


def model(
    *nodes: onnx.NodeProto,
    tensors: tuple[onnx.TensorProto, ...] = (),
    opsets: Mapping[str, int] | None = None,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A graph of these nodes, from x to y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph(list(nodes) or [helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y], list(tensors))
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 21}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def external(location: str = "model.onnx_data", dims: tuple[int, ...] = (4,), **entries: str) -> onnx.TensorProto:
    """A float tensor whose data lies elsewhere."""
    tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value
