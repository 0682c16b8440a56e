"""Nodes of ONNX graphs against the table of what each operator's must be, and what a runtime does with the rest."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz.mutators_onnx import differential, mutate
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_files import external, put

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import ArtifactError
from edgekit.formats.onnx.operators import OPERATORS, read_checked
from edgekit.runtime.base import EncoderSpec
from edgekit.runtime.onnx.openvino_encoder import OpenVinoEncoder
from edgekit.runtime.onnx.session import OrtEncoder
from edgekit.runtime.parts import EncoderFile


@pytest.fixture
def text_graph(medsiglip_artifact: Path, tmp_path: Path) -> Path:
    """A text encoder with its data, which a test may change."""
    for path in medsiglip_artifact.glob("onnx/text_model.onnx*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "text_model.onnx"


@pytest.fixture
def q4_graph(medgemma_onnx: Path, tmp_path: Path) -> Path:
    for path in medgemma_onnx.glob("onnx/decoder_model_merged_q4.onnx*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "decoder_model_merged_q4.onnx"


def changed(path: Path, change: Callable[[GraphProto], object]) -> Path:
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path


def first(graph: GraphProto, operator: str) -> NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def spec(path: Path) -> EncoderFile:
    return EncoderFile(path, EncoderSpec("ids", "pooled", (64,)), "pooler_output", None)


# ---------------------------------------------------------------- right and wrong


def test_every_exported_graph_is_right(medsiglip_artifact: Path, medgemma_onnx: Path) -> None:
    graphs = [*medsiglip_artifact.glob("onnx/*.onnx"), *medgemma_onnx.glob("onnx/*.onnx")]
    assert len(graphs) == 5
    for path in graphs:
        read_checked(path, list(path.parent.iterdir()))


def test_no_input_of_any_operator_may_be_left_out_by_name_only(tmp_path: Path) -> None:
    """ONNX Runtime reads the bias of a LayerNormalization that is called '' from address 0."""
    for (domain, operator), row in OPERATORS.items():
        for at in range(len(row.inputs)):
            inputs = ["" if i == at else "x" for i in range(len(row.inputs))]
            node = helper.make_node(operator, inputs, ["y"], domain=domain)
            graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])], [])
            opsets = [helper.make_opsetid(name, version) for name, version in (("", 21), ("com.microsoft", 1))]
            path = put(tmp_path, helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
            with pytest.raises(ArtifactError, match=rf"\.{operator} .* reads '', which nothing before it gives"):
                read_checked(path)


def empty_bias(graph: GraphProto) -> None:
    first(graph, "LayerNormalization").input[2] = ""


def test_no_runtime_meets_what_kills_it(text_graph: Path) -> None:
    """The one kind of damage that ended the process in ONNX Runtime."""
    changed(text_graph, empty_bias)
    with pytest.raises(ArtifactError, match=r"LayerNormalization .* reads ''"):
        OrtEncoder(spec(text_graph), threads=1)
    with pytest.raises(ArtifactError, match=r"LayerNormalization .* reads ''"):
        OpenVinoEncoder(spec(text_graph), threads=1, precision="f32")


def constant(graph: GraphProto, name: str, array: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def set_input(operator: str, at: int, array: NDArray[Any]) -> Callable[[GraphProto], object]:
    def change(graph: GraphProto) -> None:
        first(graph, operator).input[at] = constant(graph, "other", array)

    return change


def set_attribute(operator: str, **values: object) -> Callable[[GraphProto], object]:
    def change(graph: GraphProto) -> None:
        node = first(graph, operator)
        kept = [one for one in node.attribute if one.name not in values]
        del node.attribute[:]
        made = [helper.make_attribute(name, value) for name, value in values.items() if value is not None]
        node.attribute.extend([*kept, *made])

    return change


def node_changed(operator: str, change: Callable[[NodeProto], object]) -> Callable[[GraphProto], object]:
    return lambda graph: change(first(graph, operator))


F = np.float32
CASES: dict[str, tuple[Callable[[GraphProto], object], str]] = {
    "unknown": (node_changed("Gelu", lambda node: setattr(node, "op_type", "Erf")), "Erf .* no graph of edgekit's has"),
    "other domain": (node_changed("Gelu", lambda node: setattr(node, "domain", "com.microsoft")),
                     "com.microsoft.Gelu .* no graph"),
    "too few": (node_changed("LayerNormalization", lambda node: node.input.pop()), "has 2 inputs and 1 outputs"),
    "too many": (node_changed("Gelu", lambda node: node.input.append(node.input[0])), "has 2 inputs and 1 outputs"),
    "two outputs": (node_changed("LayerNormalization", lambda node: node.output.append("mean")), "and 2 outputs"),
    "no output": (node_changed("Gelu", lambda node: node.output.pop()), "and 0 outputs"),
    "nameless output": (node_changed("Gelu", lambda node: node.output.__setitem__(0, "")), "gives ''"),
    "given twice": (lambda graph: graph.node[5].output.__setitem__(0, graph.node[4].output[0]), "is given twice"),
    "from nowhere": (node_changed("Gelu", lambda node: node.input.__setitem__(0, "nothing")), "reads 'nothing'"),
    "from later": (lambda graph: graph.node[1].input.__setitem__(0, graph.node[9].output[0]), "nothing before"),
    "output from nowhere": (lambda graph: setattr(graph.output[0], "name", "nothing"), "the graph reads 'nothing'"),
    "strange attribute": (set_attribute("Gelu", alpha=1.0), "has an attribute 'alpha'"),
    "missing attribute": (set_attribute("LayerNormalization", epsilon=None), "has no epsilon"),
    "attribute's type": (set_attribute("LayerNormalization", epsilon=1), "epsilon is of type 2\nallowed: a float"),
    "NaN": (set_attribute("LayerNormalization", epsilon=float("nan")), "epsilon is nan"),
    "negative": (set_attribute("LayerNormalization", epsilon=-1.0), "epsilon is -1.0"),
    "text": (set_attribute("Gelu", approximate="fast"), "approximate is 'fast'\nallowed: none or tanh"),
    "no heads": (set_attribute("MultiHeadAttention", num_heads=0), "num_heads is 0\nallowed: 1 to"),
    "heads": (set_attribute("MultiHeadAttention", num_heads=1 << 40), "num_heads is 1099511627776"),
    "norm": (set_attribute("LpNormalization", p=-3), "p is -3"),
    "scale's type": (set_input("LayerNormalization", 1, np.ones(160, np.float64)), r"input 1 is DOUBLE \[160\]"),
    "scale's rank": (set_input("LayerNormalization", 1, np.ones((1, 160), F)), r"input 1 is FLOAT \[1, 160\]"),
    "scale's length": (set_input("LayerNormalization", 1, np.ones(7, F)), r"shapes \[7\], \[160\] do not fit"),
    "nothing in it": (set_input("LayerNormalization", 1, np.ones(0, F)), r"input 1 is FLOAT \[0\]"),
    "vector": (set_input("MatMul", 1, np.ones(160, F)), r"MatMul .* input 1 is FLOAT \[160\]"),
    "floats for ids": (set_input("Gather", 1, np.ones(1, F)), r"Gather .* input 1 is FLOAT \[1\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_nodes_that_runtimes_would_believe(text_graph: Path, case: str) -> None:
    change, said = CASES[case]
    with pytest.raises(ArtifactError, match=said) as caught:
        read_checked(changed(text_graph, change))
    assert str(text_graph) in caught.value.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_attribute("MatMulNBits", block_size=0), "block_size is 0"),
        (set_attribute("MatMulNBits", block_size=64), "do not fit each other"),
        (set_attribute("MatMulNBits", bits=3), "bits is 3\nallowed: 4 or 8"),
        (set_attribute("MatMulNBits", K=1 << 20), "do not fit each other"),
        (set_attribute("MatMulNBits", N=-1), "N is -1"),
        (set_input("MatMulNBits", 2, np.ones((2, 2), F)), r"shapes \[\d+, \d+, \d+\], \[2, 2\] do not fit"),
        (node_changed("MatMulNBits", lambda node: node.input.__setitem__(1, node.input[0])), "input 1 is computed"),
        (set_input("Reshape", 1, np.ones(2, F)), r"Reshape .* input 1 is FLOAT \[2\]"),
        (set_input("Reshape", 1, np.ones((2, 1), np.int64)), r"Reshape .* input 1 is INT64 \[2, 1\]"),
        (set_attribute("Transpose", perm=[0, 2, 2, 3]), "do not fit"),
        (set_attribute("Cast", to=8), "to is 8"),
    ],
)
def test_nodes_of_a_decoder(q4_graph: Path, change: Callable[[GraphProto], object], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        read_checked(changed(q4_graph, change))


def test_a_weight_that_is_listed_as_an_input_stays_a_weight(text_graph: Path) -> None:
    """As old files have it."""

    def listed(graph: GraphProto) -> None:
        one = next(one for one in graph.initializer if len(one.dims) == 1)
        graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)))

    read_checked(changed(text_graph, listed))


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A Conv with a bias that makes one vector of 4 x 4 pixels."""
    conv = helper.make_node("Conv", ["x", "w", "b"], ["patches"], kernel_shape=[4, 4], strides=[4, 4])
    nodes = [conv, helper.make_node("Reshape", ["patches", "sides"], ["y"])]
    weight = np.random.default_rng(0).normal(0, 1, (5, 3, 4, 4)).astype(F)
    tensors = {"w": weight, "b": np.arange(5, dtype=F), "sides": np.asarray([-1, 5], np.int64)}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(tensors[name], name) for name in tensors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return put(tmp_path, model.SerializeToString())


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_conv_may_have_no_bias(patches: Path, with_bias: bool) -> None:
    """Both runtimes then add none."""
    if not with_bias:
        changed(patches, lambda graph: graph.node[0].input.pop())
    weight, bias = (numpy_helper.to_array(one) for one in onnx.load(patches).graph.initializer[:2])
    preprocessing = Preprocessing(size=4, resample="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    file = EncoderFile(patches, EncoderSpec("pixels", "pooled", (4, 4, 3)), "y", preprocessing)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = np.einsum("nhwc,ochw->no", pixels / 255, weight) + with_bias * bias
    for encoder in (OrtEncoder(file, threads=1), OpenVinoEncoder(file, threads=1, precision="f32")):
        assert np.allclose(encoder.encode(pixels), expected, atol=1e-5)
        encoder.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (node_changed("Conv", lambda node: node.input.__setitem__(2, "")), r"Conv .* reads ''"),
        (lambda graph: first(graph, "Conv").input.__delitem__(slice(1, 3)), "has 1 inputs .*\nallowed: 2 to 3 inputs"),
        (node_changed("Conv", lambda node: node.input.__setitem__(2, "x")), "input 2 is computed"),
        (set_input("Conv", 2, np.ones(4, F)), r"shapes \[5, 3, 4, 4\], \[4\] do not fit"),
        (set_attribute("Conv", kernel_shape=[4, 2]), "do not fit"),
    ],
)
def test_a_conv_has_no_wrong_bias(patches: Path, change: Callable[[GraphProto], object], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        read_checked(changed(patches, change))


# ---------------------------------------------------------------- damage


def accepted(path: Path, seeds: range, most: int) -> int:
    data, found = path.read_bytes(), 0
    for seed in seeds:
        path.write_bytes(mutate(random.Random(seed), data))
        try:
            read_checked(path)
        except ArtifactError:
            continue
        if path.read_bytes() != data:
            assert differential(spec(path)) is None, f"seed {seed}"
            found += 1
            if found == most:
                break
    return found


def test_what_is_accepted_does_not_kill_the_library(text_graph: Path) -> None:
    assert accepted(text_graph, range(200), 3) == 3


@pytest.mark.slow
def test_nothing_that_is_accepted_kills_the_library(text_graph: Path) -> None:
    assert accepted(text_graph, range(4000), 300) == 300


def test_memory_is_a_few_times_the_graph(tmp_path: Path) -> None:
    """No node is kept, and tensors are small."""
    nodes = [helper.make_node("Abs", [f"{i:x}"], [f"{i + 1:x}"]) for i in range(4000)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("0", f"{4000:x}"))
    tensors = [external(dims=(1,), length="4") for _ in range(1500)]
    for i, one in enumerate(tensors):
        one.name = f"w{i}"
    for made in (helper.make_graph(nodes, "g", [x], [y]), helper.make_graph([], "g", [x], [x], tensors)):
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        path = put(tmp_path, model.SerializeToString())
        tracemalloc.start()
        try:
            read_checked(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10 * path.stat().st_size, (peak, path.stat().st_size)
