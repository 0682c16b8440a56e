"""What an ONNX file of edgekit's own says beside what it computes: this, and nothing that is compared with nothing.

Programs obey some of it, one day or already, as `ort_config` in the metadata and shapes of values within a graph;
people choose a file by the rest. Which fields there are, and their values, is stated apart from who writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.formats.audit import Compared

_OPSET, _IR_VERSION, _CONTRIB = 21, 10, {"com.microsoft": 1}
_PRODUCER = "edgekit"
_FIELDS: Mapping[str, set[str]] = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "graph", "metadata_props"},
    "GraphProto": {"name", "node", "initializer", "input", "output"},
    "NodeProto": {"name", "op_type", "domain", "input", "output", "attribute"},
    "AttributeProto": {"name", "type", "f", "i", "s", "ints"},
    "TensorProto": {"name", "data_type", "dims", "raw_data", "data_location", "external_data"},
    "ValueInfoProto": {"name", "type"},
}


def of_the_file(path: Path, model: Any, numbers: Mapping[str, float]) -> Iterator[Compared]:
    """Compare all of an `onnx.ModelProto` but its graph's nodes and tensors.

    Args:
        numbers: what its metadata must hold, as programs that open it may ask for it.
    """
    graph, domains = model.graph, {node.domain for node in model.graph.node}
    needed = {"ai.onnx": _OPSET, **{domain: _CONTRIB.get(domain, 0) for domain in domains if domain}}
    read = {name for node in graph.node for name in node.input}.union(value.name for value in graph.output)
    values: dict[str, tuple[Any, Any]] = {
        "the IR version": (model.ir_version, _IR_VERSION),
        "the versions of operators": (
            sorted(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import),
            sorted(f"{domain} {version}" for domain, version in needed.items()),
        ),
        "the producer's name": (model.producer_name, _PRODUCER),
        "the graph's name": (graph.name, path.stem),
        "the metadata": (
            sorted(f"{one.key} {one.value}" for one in model.metadata_props),
            sorted(f"edgekit.{name} {number!r}" for name, number in numbers.items()),
        ),
        "the tensors that no node reads": ([one.name for one in graph.initializer if one.name not in read], []),
    }
    for name, (found, expected) in values.items():
        yield Compared("constant", f"{path.name}: {name}", found, expected)
    for kind, field, value in _others(model):
        yield Compared("constant", f"{path.name}: {field} of a {kind}", value, None, "none in files of edgekit's own")


def _others(model: Any) -> Iterator[tuple[str, str, str]]:
    """Fields that no file of edgekit's own has: the message's kind, the field's name, and what it says."""
    graph = model.graph
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    for message in (model, graph, *graph.node, *attributes, *graph.initializer, *graph.input, *graph.output):
        kind = message.DESCRIPTOR.name
        for field, value in message.ListFields():
            if value and field.name not in _FIELDS[kind]:  # some are written though they say nothing
                yield kind, field.name, f"{value!s:.100}"
