"""The bounded reader of ONNX files, against onnx's own reader on right files and against damage of every kind."""

from __future__ import annotations

import math
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from material import Copy
from onnx import TensorProto, helper
from onnx_files import external, field, model, put, varint

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import TYPES, OnnxHeader, read

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(put, tmp_path)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, as onnx reads them."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from tensors_of(inner)


def operators_of(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        yield ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from operators_of(inner)


def side(one: Any) -> int | str | None:
    return getattr(one, one.WhichOneof("value")) if one.WhichOneof("value") else None


def assert_agrees(found: OnnxHeader, theirs: onnx.ModelProto) -> None:
    """Everything that the header says is what onnx says."""
    assert found.ir_version == theirs.ir_version
    assert found.opsets == {"" if one.domain == "ai.onnx" else one.domain: one.version for one in theirs.opset_import}
    assert found.metadata == {one.key: one.value for one in theirs.metadata_props}
    assert found.operators == set(operators_of(theirs.graph))
    for ours, values in ((found.inputs, theirs.graph.input), (found.outputs, theirs.graph.output)):
        assert [one.name for one in ours] == [one.name for one in values]
        for one, value in zip(ours, values, strict=True):
            kind = value.type.tensor_type
            assert one.type == TensorProto.DataType.Name(kind.elem_type)
            assert one.shape == (tuple(map(side, kind.shape.dim)) if kind.HasField("shape") else None)
    expected = list(tensors_of(theirs.graph))
    assert len(found.tensors) == len(expected)
    by_name = {one.name: one for one in expected if one.name}
    for tensor in found.tensors:
        if tensor.name not in by_name:
            assert not tensor.name
            continue
        their = by_name[tensor.name]
        assert (tensor.type, tensor.shape) == (TensorProto.DataType.Name(their.data_type), tuple(their.dims))
        assert bool(tensor.file) == (their.data_location == TensorProto.EXTERNAL)
        entries = {one.key: one.value for one in their.external_data}
        if tensor.file:
            assert tensor.file == found.path.parent / entries["location"]
            assert (tensor.offset, tensor.bytes) == (
                int(entries.get("offset", 0)),
                math.prod(their.dims) * bits(tensor.type) // 8,
            )


def bits(kind: str) -> int:
    return next(size for name, size, _ in TYPES.values() if name == kind)


def test_types_are_onnxs() -> None:
    theirs = dict(TensorProto.DataType.items())
    assert {number: name for name, number in theirs.items() if number in TYPES} == {
        n: row[0] for n, row in TYPES.items()
    }
    # Numbers of six bits have no agreed layout in files; 0 is no type.
    assert {name for name, number in theirs.items() if number not in TYPES} <= {
        "UNDEFINED",
        "FLOAT6E2M3",
        "FLOAT6E3M2",
    }


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (0, 4)])
def test_every_type_as_onnx_writes_it(write: Write, number: int, shape: tuple[int, ...]) -> None:
    """In the fields for numbers, and raw."""
    name, _, _ = TYPES[number]
    values = [b"text" if name == "STRING" else 1] * math.prod(shape)
    typed = helper.make_tensor("typed", number, shape, values)
    tensors = [typed]
    if name != "STRING":
        array = onnx.numpy_helper.to_array(typed)
        raw = onnx.numpy_helper.from_array(array, "raw")
        assert raw.HasField("raw_data")
        assert raw.data_type == number
        tensors.append(raw)
    path = write(model(tensors=tuple(tensors)).SerializeToString())
    found = read(path)
    assert [(one.name, one.type, one.shape) for one in found.tensors] == [(one.name, name, shape) for one in tensors]
    for one, tensor in zip(found.tensors[1:], tensors[1:], strict=True):
        assert one.bytes == len(tensor.raw_data)
    if math.prod(shape):
        for one in tensors:
            one.dims[:] = [*shape[:-1], shape[-1] + 8] if shape else [9]
            with pytest.raises(ArtifactError, match=f"tensor '{one.name}' has .* (numbers|bytes)\nallowed: .*{name}"):
                read(write(model(tensors=(one,)).SerializeToString()))


def test_exported_files_as_onnx_reads_them(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)  # other tests may link the shared one's files
    paths = sorted(folder.glob("onnx/*.onnx"))
    assert len(paths) == 2
    for path in paths:
        found = read(path)
        assert_agrees(found, onnx.load(path, load_external_data=False))
        assert found.external
        assert {one.file for one in found.external} == {path.with_suffix(".onnx_data")}
        assert all(one.offset + one.bytes <= path.with_suffix(".onnx_data").stat().st_size for one in found.external)


def test_graphs_within_graphs(write: Write) -> None:
    """Operators and tensors are found wherever a node's attributes hold them."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], [external(length="16")]
        )

    constant = helper.make_tensor("five", TensorProto.INT64, [1], [5])
    inner = helper.make_node("If", ["c"], ["i"], then_branch=branch("i", helper.make_node("Abs", ["x"], ["i"])))
    fused = helper.make_node("FusedMatMul", ["x", "x"], ["e"], domain="com.microsoft")
    outer = helper.make_node(
        "If",
        ["c"],
        ["y"],
        name="outer",
        then_branch=branch("t", helper.make_node("Constant", [], ["t"], value=constant), inner),
        else_branch=branch("e", fused),
    )
    proto = model(outer, opsets={"ai.onnx": 20, "com.microsoft": 1})
    helper.set_model_props(proto, {"note": "größe"})
    path = write(proto.SerializeToString())
    found = read(path)
    assert_agrees(found, proto)
    assert found.operators == {("", "If"), ("", "Abs"), ("", "Constant"), ("com.microsoft", "FusedMatMul")}
    assert (found.opsets, found.domains, found.metadata) == (
        {"": 20, "com.microsoft": 1},
        ("", "com.microsoft"),
        {"note": "größe"},
    )
    assert [one.name for one in found.tensors].count("w") == 3  # the same name, each in a graph of its own
    assert [(one.name, one.shape) for one in (*found.inputs, *found.outputs)] == [
        ("x", ("batch", 3)),
        ("y", ("batch", 3)),
    ]


IR, OPSET = field(1, 10), field(8, field(2, 21))
NODE = field(1, field(4, b"Abs"))


def file(*graph: bytes, after: bytes = b"") -> bytes:
    """An ONNX file of these pieces, right or wrong."""
    return IR + OPSET + field(7, b"".join((NODE, *graph))) + after


def tensor(*pieces: bytes, name: bytes = b"w") -> bytes:
    return field(5, b"".join((field(8, name), *pieces)))


def nested(depth: int) -> bytes:
    graph = NODE
    for _ in range(depth - 1):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return graph


FLOAT, SIDES = field(2, 1), field(1, 2)
HUGE = 1 << 62
WRONG: dict[str, tuple[bytes, str]] = {
    "text": (b"once upon a time, in a file of no format", "no protobuf message|reaches beyond its end|wire type"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), "field 8 of a ModelProto|beyond|no protobuf"),
    "length": (
        b"\x3a" + varint(1 << 40),
        "field 7 of a ModelProto at byte 7 reaches beyond its end: 1099511627776 bytes, 0",
    ),
    "inner length": (
        IR + field(7, b"\x0a\x7f"),
        "field 1 of a GraphProto at byte 6 reaches beyond its end: 127 bytes, 0",
    ),
    "long varint": (b"\x08" + b"\x80" * 11, "more than 64 bits"),
    "wide varint": (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    "cut varint": (b"\x08\x80", "a number in a ModelProto at byte 1 reaches beyond its end"),
    "group": (b"\x0b\x0c", "field 1 of wire type 3"),
    "field 0": (b"\x00\x01", "field 0 of wire type 0"),
    "wire type 7": (b"\x0f", "field 1 of wire type 7"),
    "fixed number": (b"\x09" + bytes(8), "field 1 of a ModelProto at byte 0 has wire type 1\nallowed: 0"),
    "no ir_version": (OPSET + field(7, NODE), "has no ir_version: no ONNX file"),
    "no graph": (IR + OPSET, "has no graph: no ONNX file"),
    "two graphs": (file(after=field(7, NODE)), "field 7 of a ModelProto stands twice, again at byte 15"),
    "ir_version": (field(1, -1) + OPSET + field(7, NODE), "ir_version is -1"),
    "no opset": (IR + field(7, NODE), "uses operators of 'ai.onnx' and names no opset of it"),
    "opset 0": (IR + field(8, b"") + field(7, NODE), "the opset of '' is 0"),
    "two opsets": (file(after=OPSET), "the operator domain '' stands twice"),
    "one spelled out": (
        file(after=field(8, field(1, b"ai.onnx") + field(2, 9))),
        "the operator domain '' stands twice",
    ),
    "functions": (file(after=field(25, b"")), "holds functions of its own"),
    "training": (file(after=field(20, b"")), "holds training information"),
    "metadata": (file(after=field(14, field(1, b"a")) * 2), "metadata: the key 'a' stands twice"),
    "metadata size": (
        file(after=field(14, field(2, bytes(2 << 20)))),
        "metadata '' has 2097152 bytes\nallowed: at most 1048576",
    ),
    "domain": (
        file(field(1, field(4, b"A") + field(7, b"evil"))),
        "the operator 'A' is of the domain 'evil'\nallowed: ai.onnx, com",
    ),
    "loading": (
        file(field(1, field(4, b"EPContext") + field(7, b"com.microsoft"))),
        "EPContext loads files that nobody checked",
    ),
    "operator": (file(field(1, b"")), "a node has no operator"),
    "operator bytes": (file(field(1, field(4, b"\xff"))), "an operator's name is not UTF-8"),
    "operator length": (
        file(field(1, field(4, bytes(5000)))),
        "an operator's name has 5000 bytes\nallowed: at most 4096",
    ),
    "operators": (file(*(field(1, field(4, b"A%d" % i)) for i in range(1025))), "too many different operators"),
    "depth": (IR + OPSET + field(7, nested(9)), "graphs nested 9 deep\nallowed: at most 8"),
    "sparse": (file(field(15, b"")), "holds a sparse tensor"),
    "sparse constant": (
        file(field(1, field(3, b"n") + field(5, field(22, b"")))),
        "an attribute of node 'n' is a sparse tensor",
    ),
    "no name": (file(field(5, FLOAT + field(1, 0))), "the initializer '' has no name or stands twice"),
    "name twice": (file(*[tensor(FLOAT, field(1, 0))] * 2), "the initializer 'w' has no name or stands twice"),
    "no type": (file(tensor(SIDES)), "'w' has the data type 0\nallowed: 1 .FLOAT. to 26"),
    "type": (file(tensor(field(2, 99))), "'w' has the data type 99"),
    "negative type": (file(tensor(field(2, -1))), "'w' has the data type -1"),
    "type twice": (file(tensor(FLOAT, FLOAT)), "field 2 of a TensorProto stands twice"),
    "negative side": (file(tensor(FLOAT, field(1, -2))), r"tensor 'w' has the shape \[-2\]"),
    "overflow": (file(tensor(FLOAT, field(1, HUGE), field(1, HUGE))), r"the shape \[4611686018427387904, 46"),
    "hidden overflow": (file(tensor(FLOAT, field(1, HUGE), field(1, HUGE), field(1, 0))), "has the shape"),
    "packed overflow": (file(tensor(FLOAT, field(1, varint(HUGE) * 2))), "has the shape"),
    "dimensions": (file(tensor(FLOAT, field(1, b"\x01" * 33))), "the number of dimensions of an initializer is 33"),
    "no data": (file(tensor(FLOAT, SIDES)), r"tensor 'w' has 0 numbers\nallowed: 2: FLOAT \[2\]"),
    "short data": (file(tensor(FLOAT, SIDES, field(9, bytes(7)))), r"tensor 'w' has 7 bytes\nallowed: 8: FLOAT \[2\]"),
    "long data": (file(tensor(FLOAT, SIDES, field(9, bytes(9)))), "tensor 'w' has 9 bytes"),
    "short nibbles": (
        file(tensor(field(2, 22), field(1, 5), field(9, bytes(2)))),
        r"has 2 bytes\nallowed: 3: INT4 \[5\]",
    ),
    "other numbers": (file(tensor(FLOAT, SIDES, field(7, b"\x01\x02"))), "tensor 'w' has 0 numbers"),
    "packed halves": (file(tensor(FLOAT, SIDES, field(4, bytes(7)))), "7 bytes of packed numbers"),
    "two places": (
        file(tensor(FLOAT, SIDES, field(4, bytes(8)), field(9, bytes(8)))),
        "'w' is not clear about where its data lies",
    ),
    "raw twice": (
        file(tensor(FLOAT, SIDES, field(9, bytes(8)), field(9, b""))),
        "field 9 of a TensorProto stands twice",
    ),
    "raw strings": (file(tensor(field(2, 8), SIDES, field(9, bytes(2)))), "tensor 'w' has 0 numbers"),
    "segment": (file(tensor(FLOAT, SIDES, field(3, b""), field(9, bytes(8)))), "not clear"),
    "location": (file(tensor(FLOAT, SIDES, field(14, 2))), "not clear"),
    "location only": (file(tensor(FLOAT, SIDES, field(14, 1))), "not clear"),
    "external unsaid": (file(tensor(FLOAT, SIDES, field(13, field(1, b"location")))), "not clear"),
    "external strings": (
        file(tensor(field(2, 8), SIDES, field(14, 1), field(13, field(1, b"location")))),
        "has strings in external data",
    ),
    "external key twice": (
        file(tensor(FLOAT, SIDES, field(14, 1), field(13, field(1, b"location")) * 2)),
        "'location' stands twice",
    ),
    "input": (file(field(11, field(1, b"x"))), "'x' is no tensor"),
    "sequence": (file(field(11, field(1, b"x") + field(2, field(4, b"")))), "'x' is no tensor"),
    "input type": (file(field(11, field(1, b"x") + field(2, field(1, b"")))), "'x' has the data type 0"),
    "input side": (
        file(field(11, field(2, field(1, field(1, 1) + field(2, field(1, field(1, -1))))))),
        "a side of '' is -1",
    ),
    "both sides": (
        file(field(11, field(2, field(1, field(1, 1) + field(2, field(1, field(1, 1) + field(2, b"n"))))))),
        "a number and a name",
    ),
    "input sides": (
        file(field(11, field(2, field(1, field(1, 1) + field(2, field(1, b"") * 33))))),
        "the number of sides of '' is 33",
    ),
    "inputs": (file(field(11, field(2, field(1, field(1, 1)))) * 1025), "the number of inputs or outputs is 1025"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(write: Write, case: str) -> None:
    content, said = WRONG[case]
    path = write(content)
    started = time.monotonic()
    with pytest.raises(ArtifactError, match=said) as caught:
        read(path)
    assert time.monotonic() - started < 1
    assert caught.value.message.startswith(str(path))
    assert caught.value.remedy


def test_pieces_alone_are_right(write: Write) -> None:
    """So that the cases above are wrong for their own reasons."""
    sides = field(2, field(1, field(1, 3)) + field(1, field(2, b"n")) + field(1, b""))
    path = write(
        file(
            tensor(FLOAT, field(1, b"\x01\x02"), field(9, bytes(8))),
            tensor(field(2, 22), field(1, 5), field(9, bytes(3)), name=b"nibbles"),
            field(11, field(1, b"x") + field(2, field(1, field(1, 1) + sides))),
            after=field(14, field(1, b"a")) + field(99, b"not known") + field(98, 7),
        )
    )
    found = read(path)
    assert [(one.name, one.shape, one.bytes) for one in found.tensors] == [("w", (1, 2), 8), ("nibbles", (5,), 3)]
    assert found.inputs[0].shape == (3, "n", None)
    assert read(write(IR + OPSET + field(7, nested(8)))).operators == {("", "If"), ("", "Abs")}


@pytest.mark.parametrize("name", ["model.ort", "model.pb", "model", "model.onnx.ort", "model.ONNX"])
def test_a_file_of_another_name_would_meet_another_parser(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(model().SerializeToString())
    with pytest.raises(ArtifactError, match=r"the name of an ONNX file ends in") as caught:
        read(tmp_path / name)
    assert caught.value.allowed == ".onnx"


def test_missing_empty_and_large(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        read(path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="is no regular file"):
        read(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="is no regular file"):
        read(tmp_path / "pipe.onnx")
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="0 bytes are no ONNX graph"):
        read(path)
    with path.open("wb") as stream:
        stream.truncate((256 << 20) + 1)
    with pytest.raises(
        ArtifactError, match=r"268435457 bytes are no ONNX graph(.|\n)*store the weights as external data"
    ):
        read(path)


def test_memory_and_time_are_bounded(write: Write) -> None:
    """A tensor of 64 MB is passed over, and so are numbers by the million; fields by the million are refused."""
    numbers = field(5, b"\x01" * (16 << 20))
    path = write(file(tensor(FLOAT, field(1, 16 << 20), field(9, bytes(64 << 20))),
                      tensor(field(2, 6), field(1, 16 << 20), numbers, name=b"n")))  # fmt: skip
    tracemalloc.start()
    try:
        found = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [one.bytes for one in found.tensors] == [64 << 20, 64 << 20]
    assert peak < 8 << 20
    with pytest.raises(ArtifactError, match="more than 1000000 fields"):
        read(write(IR + b"\x18\x01" * 1_000_001))


@pytest.fixture(scope="module")
def original(medsiglip_artifact: Path) -> bytes:
    return (medsiglip_artifact / "onnx/text_model.onnx").read_bytes()


@pytest.fixture(scope="module")
def damaged_file(medsiglip_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a damaged graph is put, with its data beside it."""
    folder = tmp_path_factory.mktemp("damaged")
    name = "text_model.onnx_data"
    (folder / name).write_bytes((medsiglip_artifact / "onnx" / name).read_bytes())
    return folder / "text_model.onnx"


def assert_refused_or_right(path: Path, content: bytes) -> None:
    """Nothing but ArtifactError, and at once; what is accepted lies within the files and says to onnx what it says."""
    path.write_bytes(content)
    started = time.monotonic()
    try:
        found = read(path)
    except ArtifactError:
        return
    finally:
        assert time.monotonic() - started < 2
    for one in found.external:
        assert one.file
        assert one.file.parent == path.parent
        assert 0 <= one.offset <= one.offset + one.bytes <= one.file.stat().st_size
    theirs = onnx.ModelProto()
    try:
        theirs.ParseFromString(content)
    except DecodeError:
        return  # a wrong doc string, say, which edgekit does not read
    assert_agrees(found, theirs)


@given(st.integers(0, 1 << 32))
def test_damage_is_refused_or_harmless(original: bytes, damaged_file: Path, seed: int) -> None:
    """Bytes set, numbers replaced by extreme ones, pieces cut out or doubled, ends cut off."""
    rng = random.Random(seed)
    data = bytearray(original)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data)), rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + rng.randrange(1, 11)] = varint(rng.choice((0, 1, 1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1)))
        elif kind == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            del data[at:]
            data += b"" if data else b"\x00"
    assert_refused_or_right(damaged_file, bytes(data))


@given(st.integers(0, 1 << 32))
def test_strings_and_numbers_that_lie(original: bytes, damaged_file: Path, seed: int) -> None:
    """The frame stays right, so that damage gets behind it: one field of one message set to something else."""
    rng = random.Random(seed)
    proto = onnx.ModelProto()
    proto.ParseFromString(original)
    one = rng.choice([entry for entry in proto.graph.initializer if entry.external_data])
    kind = rng.randrange(6)
    if kind == 0:
        entry = rng.choice(one.external_data)
        entry.value = rng.choice((str(rng.randrange(-5, 5_000_000)), "../x", "/dev/zero", "text_model.onnx", "", "\n"))
    elif kind == 1:
        one.dims[rng.randrange(len(one.dims))] = rng.choice((-1, 0, 1, 63, 1 << 32, (1 << 63) - 1))
    elif kind == 2:
        one.data_type = rng.randrange(-2, 30)
    elif kind == 3:
        one.name = rng.choice(proto.graph.initializer).name
    elif kind == 4:
        one.data_location = TensorProto.DEFAULT
    else:
        one.external_data.add(key=rng.choice(("offset", "length", "basepath")), value="0")
    assert_refused_or_right(damaged_file, proto.SerializeToString())


@given(st.binary(min_size=1, max_size=200))
def test_random_bytes(damaged_file: Path, content: bytes) -> None:
    """Alone, and as a graph, a node and a tensor."""
    for framed in (content, IR + OPSET + field(7, content), file(field(1, content)), file(tensor(content))):
        assert_refused_or_right(damaged_file, framed)


def test_no_library_ever_sees_a_wrong_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    from edgekit.runtime.backends import backends_for
    from edgekit.runtime.base import EncoderSpec
    from edgekit.runtime.onnx import openvino_encoder as ov
    from edgekit.runtime.parts import EncoderFile, RunOptions

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **named: pytest.fail("the file was opened"))
    monkeypatch.setattr(ov, "library", lambda: pytest.fail("the library was loaded"))
    path = write(model(tensors=(external("../secret"),)).SerializeToString())
    file = EncoderFile(path, EncoderSpec("pixels", "pooled", (1, 1, 3)), "y", None)
    for backend in backends_for("onnx", "encoder"):
        with pytest.raises(ArtifactError, match=r"its data may not lie at '../secret'"):
            backend.encoders["onnx"](file, RunOptions(1), None)
