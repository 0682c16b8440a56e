"""What a file needs of ONNX Runtime: the table against the installed release, and what is said where it lacks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_files import model

from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.formats.onnx.header import OnnxHeader, read
from edgekit.formats.onnx.requirements import ADDED, NEWEST, RELEASES, requires
from edgekit.machine.cpu import cpu
from edgekit.runtime.onnx import session as ort
from edgekit.runtime.onnx import support as ort_support
from edgekit.runtime.onnx.session import running, session
from edgekit.runtime.onnx.support import check, installed_version

Header = Callable[..., OnnxHeader]


@pytest.fixture
def header(tmp_path: Path) -> Header:
    def make(*nodes: Any, **options: Any) -> OnnxHeader:
        path = tmp_path / "model.onnx"
        path.write_bytes(model(*nodes, **options).SerializeToString())
        return read(path)

    return make


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretends that another release is installed."""

    def pretend(version: str) -> None:
        monkeypatch.setattr(onnxruntime, "__version__", version)

    return pretend


def opens(path: Path) -> bool:
    """Whether ONNX Runtime itself opens a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


def test_the_table_is_what_the_installed_release_does(header: Header) -> None:
    _, installed = installed_version()
    if installed > NEWEST:
        pytest.skip(f"{installed} is newer than what the table knows")
    opset, ir_version = RELEASES[max(row for row in RELEASES if row <= installed)]
    for options, right in (
        ({"opsets": {"": opset}}, True),
        ({"opsets": {"": opset + 1}}, False),
        ({"ir_version": ir_version}, True),
        ({"ir_version": ir_version + 1}, False),
    ):
        found = header(**options)
        assert opens(found.path) is right
        if right:
            check(found)
        else:
            with pytest.raises(ArtifactError, match=r"needs (opset|IR version) \d+; ONNX Runtime .* has .*s up to \d+"):
                check(found)


def test_operators_that_were_added_are_described_by_the_installed_release() -> None:
    _, installed = installed_version()
    known = ort_support.operators()
    for version, names in ADDED.items():
        for name in names:
            assert (("com.microsoft", name) in known) is (version <= installed), name


def test_opset_that_is_too_new(header: Header, release: Callable[[str], None]) -> None:
    release("1.24.1")
    check(header(opsets={"": 25}))
    with pytest.raises(ArtifactError) as caught:
        check(header(opsets={"": 28}))
    assert "needs opset 28; ONNX Runtime 1.24.1 has opsets up to 25" in caught.value.message
    assert caught.value.allowed == "ONNX Runtime 1.32 or newer"
    assert caught.value.remedy == "pip install 'onnxruntime>=1.32'"
    with pytest.raises(ArtifactError, match="needs opset 99") as caught:
        check(header(opsets={"": 99}))
    assert caught.value.allowed is None
    assert "for an older opset" in str(caught.value.remedy)


def test_ir_version_that_is_too_new(header: Header, release: Callable[[str], None]) -> None:
    release("1.24.1")
    with pytest.raises(
        ArtifactError, match=r"needs IR version 14; ONNX Runtime 1.24.1 has IR versions up to 13"
    ) as caught:
        check(header(ir_version=14))
    assert caught.value.remedy == "pip install 'onnxruntime>=1.32'"


def test_a_release_that_nobody_knows_yet_is_asked_itself(header: Header, release: Callable[[str], None]) -> None:
    release("1.99.0.dev20301231")
    check(header(opsets={"": 40}))


def test_operators_that_are_not_there(
    header: Header, release: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opsets = {"": 21, "com.microsoft": 1}
    check(header(helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft"), opsets=opsets))
    unknown = header(helper.make_node("Abracadabra", ["x"], ["y"], domain="com.microsoft"), opsets=opsets)
    with pytest.raises(
        ArtifactError, match=r"needs the operator com.microsoft.Abracadabra; .* has no such operator"
    ) as caught:
        check(unknown)
    assert "with ONNX Runtime's own operators" in str(caught.value.remedy)
    later = header(helper.make_node("MatMulNBitsMlp", ["x"], ["y"], domain="com.microsoft"), opsets=opsets)
    known = {key: since for key, since in ort_support.operators().items() if key[1] != "MatMulNBitsMlp"}
    monkeypatch.setattr(ort_support, "operators", lambda: known)
    release("1.24.1")
    with pytest.raises(
        ArtifactError, match=r"needs the operator com.microsoft.MatMulNBitsMlp; ONNX Runtime 1.24.1"
    ) as caught:
        check(later)
    assert caught.value.allowed == "ONNX Runtime 1.27 or newer"


def test_operators_of_another_opset(header: Header) -> None:
    with pytest.raises(ArtifactError, match=r"the operator ai.onnx.Gelu came with opset 20, the file says 19"):
        check(header(helper.make_node("Gelu", ["x"], ["y"]), opsets={"": 19}))
    fused = helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")
    with pytest.raises(ArtifactError, match=r"needs opset 2 of com.microsoft; ONNX Runtime .* has up to 1"):
        check(header(fused, opsets={"": 21, "com.microsoft": 2}))


@pytest.mark.parametrize(
    ("opset", "ir_version", "operator", "minimum"),
    [
        (17, 8, None, "1.24"),
        (20, 9, None, "1.24"),
        (20, 10, None, "1.24"),
        (21, 10, None, "1.24"),
        (22, 10, None, "1.24"),
        (23, 10, None, "1.24"),
        (23, 13, None, "1.24"),
        (24, 11, None, "1.24"),
        (26, 11, None, "1.25"),
        (27, 11, None, "1.32"),
        (21, 10, "MultiHeadAttention", "1.24"),
        (21, 10, "GatherBlockQuantized", "1.24"),
        (29, 10, None, None),
    ],
)
def test_what_the_manifest_says(
    header: Header, opset: int, ir_version: int, operator: str | None, minimum: str | None
) -> None:
    nodes = [helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")] if operator else []
    found = header(*nodes, opsets={"": opset, "com.microsoft": 1}, ir_version=ir_version)
    assert requires([found]) == {
        "opset": opset,
        "ir_version": ir_version,
        "domains": ["com.microsoft"] if operator else [""],
        "minimum_onnxruntime": minimum,
    }


def test_a_part_of_two_graphs_requires_what_either_does(header: Header) -> None:
    fused = helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")
    both = [header(fused, opsets={"": 26, "com.microsoft": 1}), header(ir_version=11)]
    assert requires(both) == {
        "opset": 26,
        "ir_version": 11,
        "domains": ["", "com.microsoft"],
        "minimum_onnxruntime": "1.25",
    }
    assert requires([*both, header(opsets={"": 99})])["minimum_onnxruntime"] is None


def test_what_onnx_runtime_itself_refuses_is_translated(tmp_path: Path, release: Callable[[str], None]) -> None:
    """An operator without a kernel for its types, an opset of a release that edgekit does not know, and the rest."""
    path = tmp_path / "model.onnx"
    proto = model(helper.make_node("Erf", ["x"], ["y"]))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        ArtifactError, match=r"cannot compute the operator Erf \(of opset 13\) with these types"
    ) as caught:
        session(read(path), threads=1)
    assert caught.value.remedy == "pip install -U onnxruntime, or another level of this model"
    path.write_bytes(model(helper.make_node("Abs", ["nothing"], ["y"])).SerializeToString())
    with pytest.raises(ArtifactError, match=r"ONNX Runtime \S+ cannot load it: .*nothing"):
        session(read(path), threads=1)
    path.write_bytes(model(opsets={"": 99}).SerializeToString())
    release("1.99.0")
    with pytest.raises(ArtifactError, match=r"needs opset 99 of ai.onnx; ONNX Runtime 1.99.0 has opsets up to \d+"):
        session(read(path), threads=1)


def test_a_right_file_opens(header: Header) -> None:
    opened = session(header(), threads=1)
    assert opened.run(None, {"x": np.ones((2, 3), np.float32)})[0].tolist() == [[1, 1, 1]] * 2


def test_no_file_chooses_its_parser_by_its_name(header: Header) -> None:
    options = session(header(), threads=1, settings={"session.disable_prepacking": "1"}).get_session_options()
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"
    assert options.get_session_config_entry("session.disable_prepacking") == "1"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), "1"), (("avx2",), "1"), (("avx2", "avx512f"), "1"), (("avx512_vnni",), None), (("avxvnni",), None)],
)
def test_sums_of_8_bit_products_do_not_overflow(
    header: Header, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: str | None
) -> None:
    """An older CPU is told to use wider sums; one that has them anyway is not slowed down."""
    monkeypatch.setattr(ort, "cpu", lambda: dataclasses.replace(cpu(), flags=flags))
    options = session(header(), threads=1).get_session_options()
    name = "session.x64quantprecision"
    if expected:
        assert options.get_session_config_entry(name) == expected
    else:
        with pytest.raises(Exception, match=name):
            options.get_session_config_entry(name)


def test_a_run_that_fails_names_the_file(header: Header) -> None:
    opened = session(header(), threads=1)
    with (
        pytest.raises(ArtifactError, match=r"\.onnx: ONNX Runtime \S+ cannot run it: .*dimension"),
        running(Path("a.onnx")),
    ):
        opened.run(None, {"x": np.ones((2, 4), np.float32)})


def test_without_onnx_runtime(header: Header, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="ONNX Runtime is not installed"):
        check(header())
