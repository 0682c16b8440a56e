"""Where a graph may say that its data lies: everything else is refused, by name."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_files import external, model, put

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import read

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(put, tmp_path)


EXTERNAL: dict[str, tuple[dict[str, Any], str]] = {
    "absolute": ({"location": "/etc/passwd"}, "its data may not lie at '/etc/passwd'"),
    "parent": ({"location": "../model.onnx_data"}, "its data may not lie at '../model"),
    "inner parent": ({"location": "a/../../b"}, "its data may not lie at"),
    "backslash": ({"location": "..\\b"}, "its data may not lie at"),
    "drive": ({"location": "C:b"}, "its data may not lie at 'C:b'"),
    "nul": ({"location": "a\0b"}, r"its data may not lie at 'a\\x00b'"),
    "empty": ({"location": ""}, "its data may not lie at ''"),
    "long": ({"location": "a" * 1025}, "its data may not lie at 'aaa"),
    "memory": ({"location": "*/_ORT_MEM_ADDR_/*"}, r"its data may not lie at '\*/_ORT"),
    "name too long": ({"location": "a" * 300}, "cannot be read: File name too long"),
    "missing": ({"location": "none"}, "its data file 'none' is missing"),
    "below a file": ({"location": "model.onnx/x"}, "its data file 'model.onnx/x' is missing"),
    "folder": ({"location": "."}, "its data file '.' is no regular file"),
    "negative offset": ({"offset": "-4"}, "the offset '-4'\nallowed: a whole number from 0 to 9223372036854775807"),
    "huge offset": ({"offset": str(1 << 63)}, "the offset '9223372036854775808'"),
    "long offset": ({"offset": "9" * 4000}, "the offset '9999"),
    "far offset": (
        {"offset": str((1 << 63) - 1)},
        "ends at byte 9223372036854775823 of model.onnx_data, the file at 64",
    ),
    "other digits": ({"offset": "١"}, "the offset"),
    "space": ({"offset": " 4"}, "the offset ' 4'"),
    "line": ({"offset": "4\n"}, "the offset"),
    "hexadecimal": ({"offset": "0x4"}, "the offset '0x4'"),
    "no offset": ({"offset": ""}, "the offset ''"),
    "negative length": ({"length": "-16"}, "the length '-16'"),
    "short length": ({"length": "12"}, "12 bytes of external data\nallowed: 16, by its type and shape"),
    "long length": ({"length": "20"}, "20 bytes of external data"),
    "beyond": ({"offset": "52"}, "ends at byte 68 of model.onnx_data, the file at 64"),
    "large": ({"dims": (17,)}, "ends at byte 68"),
    "key": (
        {"prepacked_0": "x"},
        "external data with the key 'prepacked_0'\nallowed: location, offset, length, checksum",
    ),
}


@pytest.mark.parametrize("case", EXTERNAL)
@pytest.mark.parametrize("constant", [False, True])
def test_external_data_that_is_wrong_is_named(write: Write, case: str, constant: bool) -> None:
    """As an initializer, and in an attribute."""
    changed, said = EXTERNAL[case]
    tensor = external(**changed)
    in_node = model(helper.make_node("Constant", [], ["y"], value=tensor))
    path = write((in_node if constant else model(tensors=(tensor,))).SerializeToString())
    with pytest.raises(ArtifactError, match=f"tensor 'w': (.*{said})") as caught:
        read(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.remedy


def test_external_data_that_is_right(write: Write, tmp_path: Path) -> None:
    """The whole file, its last bytes, in a folder below, with a checksum, by a link that stays inside, empty."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below/data").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to("below/data")
    for tensor, place in (
        (external(dims=(4, 4)), ("model.onnx_data", 0, 64)),
        (external(offset="48", length="16"), ("model.onnx_data", 48, 16)),
        (external("below/data", checksum="0"), ("below/data", 0, 16)),
        (external("./link"), ("link", 0, 16)),
        (external(offset="64", dims=(0, 5)), ("model.onnx_data", 64, 0)),
    ):
        (found,) = read(write(model(tensors=(tensor,)).SerializeToString())).external
        assert (found.file, found.offset, found.bytes) == (tmp_path / place[0], *place[1:])


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """By the file, and by a folder on the way; a ring of links; something that never ends."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    (folder / "ring").symlink_to("ring")
    os.mkfifo(folder / "pipe")
    path = folder / "model.onnx"
    for location, said in (
        ("link", "its data file 'link' is a link out of the folder"),
        ("up/secret", "its data file 'up/secret' is a link out of the folder"),
        ("ring", "its data file 'ring' cannot be read"),
        ("pipe", "its data file 'pipe' is no regular file"),
    ):
        path.write_bytes(model(tensors=(external(location),)).SerializeToString())
        with pytest.raises(ArtifactError, match=said) as caught:
            read(path)
        assert caught.value.remedy


def test_hard_links(write: Write, tmp_path: Path) -> None:
    """A second name is what a planted link to someone's file looks like; a manifest that knows its hash allows it."""
    path = write(model(tensors=(external(),)).SerializeToString())
    data = tmp_path / "model.onnx_data"
    read(path)
    os.link(data, tmp_path / "second name")
    with pytest.raises(ArtifactError, match=r"its data file 'model.onnx_data' is hard-linked: 2 names") as caught:
        read(path)
    assert caught.value.allowed == "a file of its own, or one that a manifest lists"
    assert caught.value.remedy == "copy the file and give the copy its name: cp DATA COPY && mv COPY DATA"
    (found,) = read(path, [path, data]).external
    assert found.file == data
    (tmp_path / "second name").unlink()
    read(path)
    with pytest.raises(ArtifactError, match=r"'model.onnx_data' is not in the manifest\nallowed: model.onnx, other"):
        read(path, [path, tmp_path / "other"])


def test_an_artifact_may_be_hard_linked(medsiglip_artifact: Path, tmp_path: Path) -> None:
    """As an export does with the parts that are there, and as backups do: the manifest knows every file's hash."""
    from edgekit.runtime.opening import open_model

    linked = tmp_path / "linked"
    for path in medsiglip_artifact.rglob("*"):
        if path.is_file():
            (linked / path.relative_to(medsiglip_artifact)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, linked / path.relative_to(medsiglip_artifact))
    open_model(linked, runtime="onnxruntime").close()
    (graph,) = linked.glob("onnx/text_model.onnx")
    with pytest.raises(ArtifactError, match="is hard-linked"):
        read(graph)


def test_what_onnx_runtime_does_with_the_same(write: Write, tmp_path: Path) -> None:
    """Why this is not left to the library: it opens a hard link to a file of elsewhere, and gives it out."""
    import onnxruntime

    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret"
    secret.write_bytes(struct.pack("<4f", 1, 2, 3, 4))
    path = write(model(helper.make_node("Identity", ["w"], ["y"]), tensors=(external("planted"),)).SerializeToString())
    os.link(secret, tmp_path / "planted")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": np.zeros((1, 3), np.float32)})[0], [1, 2, 3, 4])
    with pytest.raises(ArtifactError, match="is hard-linked"):
        read(path)
