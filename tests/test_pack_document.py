"""What a bundle's document may say, the one form it has, and the files that it names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import described, stated
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekit.errors import BundleError, UsageError
from edgekit.pack import bundle as bundles
from edgekit.pack import document
from edgekit.pack.bundle import CHUNK_BYTES, BundleFile
from edgekit.progress import Progress


def file(path: str, data: bytes = b"content") -> BundleFile:
    digest = hashlib.sha256(data).hexdigest()
    return BundleFile(path=path, bytes=len(data), sha256=digest, chunks=(digest,) if data else ())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a document, unsigned."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "edgekit.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A model")
    document.write(tmp_path, stated(described(tmp_path)))
    return tmp_path


# ---------------------------------------------------------------- its form


def test_a_document_is_read_as_it_was_written(written: Path) -> None:
    found, raw = document.read(written)
    assert found == stated(described(written))
    assert raw == (written / "bundle.json").read_bytes()


def test_its_bytes_are_canonical(written: Path) -> None:
    """Of ASCII names and whole numbers Python's own library writes the form of RFC 8785, too."""
    raw = (written / "bundle.json").read_bytes()
    assert raw == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_names_are_sorted_as_utf_16() -> None:
    """RFC 8785, 3.2.3: by code units, which puts a character beyond the first plane before U+FB33."""
    said = document.canonical({"\ufb33": 1, "\U0001f602": 2, "a": [True, None]})
    assert said.decode() == '{"a":[true,null],"\U0001f602":2,"\ufb33":1}'


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b"\n",
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.replace(b'":', b'": ', 1),
        lambda raw: raw.replace(b'"bytes":', b'"bytes":2,"bytes":', 1),
        lambda raw: raw.replace(b'"executable":false,', b"", 1),  # what it would be anyway
        lambda raw: raw.replace(b'"stand_in":null,', b"", 1),
        lambda raw: raw.replace(b"MedGemma", b"Med\\u0047emma", 1),
        lambda raw: raw.replace(b'"version":3', b'"version":3.0', 1),
        lambda raw: raw.replace(b'"version":3', b'"version":"3"', 1),
        lambda raw: raw.replace(b'"version":3', b'"version":3,"zz":1', 1),
        lambda raw: raw.replace(b'"schema_version":1', b'"schema_version":2', 1),
        lambda raw: raw.replace(b'"schema_version":1', b'"schema_version":true', 1),
        lambda raw: json.dumps(dict(reversed(json.loads(raw).items())), separators=(",", ":")).encode(),
        lambda raw: b"[" * 100_000,
        lambda raw: b"[]",
        lambda raw: b"\x00",
        lambda raw: b"",
    ],
)
def test_any_other_form_is_refused(written: Path, change: Callable[[bytes], bytes]) -> None:
    raw = (written / "bundle.json").read_bytes()
    changed = change(raw)
    assert changed != raw
    (written / "bundle.json").write_bytes(changed)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        document.read(written)


@given(st.binary(max_size=200))
def test_no_bytes_are_an_unexpected_error(raw: bytes) -> None:
    with pytest.raises(BundleError):
        document.parsed(raw, "bundle.json")


def test_a_document_that_is_too_large_is_not_read(written: Path) -> None:
    with (written / "bundle.json").open("r+b") as stream:
        stream.truncate(bundles.MOST_BYTES + 1)
    with pytest.raises(BundleError, match="too large"):
        document.read(written)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        document.read(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        document.read(tmp_path / "nothing")


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_a_document_that_is_no_file_is_not_waited_for(written: Path, tmp_path: Path) -> None:
    path = written / "bundle.json"
    other = path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(other)
    with pytest.raises(BundleError, match="is a link"):
        document.read(written)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="is no file"):
        document.read(written)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="is no file"):
        document.read(written)


# ---------------------------------------------------------------- its names


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../model", "model/../../x", "./model", "model//x", "model/", "", ".", "C:/x", "C:x"),
        *("model\\x", "a b", "a:b", "a*", "a?", 'a"', "a<", "a|", "a\n", "a\x00", "é", "．．/x"),
        *(".hidden", "model/.git/x", "x.", "model./x", "con", "NUL.txt", "model/Com1.json", "lpt9.tar.gz"),
        *("bundle.json", "bundle.sig.json", "Bundle.JSON", "bundle.json/x", "BUNDLE.SIG.JSON/x"),
        "a" * 241,
    ],
)
def test_a_path_that_not_every_system_takes(path: str) -> None:
    with pytest.raises(ValidationError):
        file(path)


@pytest.mark.parametrize(
    "paths",
    [
        ("b", "a"),
        ("a", "a"),
        ("A", "a"),
        ("a", "a/b"),
        ("A", "a/b"),
        ("Model/a", "model/b"),
        ("x/Y/a", "x/y/b"),
    ],
)
def test_paths_that_are_no_set_of_files(paths: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="files: "):
        stated(map(file, paths))


def test_what_is_plain_is_taken() -> None:
    paths = ("README.md", "model/a-b_c+1.gguf", "model/onnx/decoder.onnx.data", "wheels/x-1.0-py3-none-any.whl")
    assert [one.path for one in stated(map(file, paths)).files] == list(paths)


def test_a_minimum_beyond_the_version() -> None:
    with pytest.raises(ValidationError, match="beyond its own version"):
        stated([file("a")], version=1, minimum_version=2)


# ---------------------------------------------------------------- its files


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 2500])
def test_a_file_is_described_by_its_whole_and_its_chunks(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "CHUNK_BYTES", 1000)
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    found = document.describe(tmp_path, "x")
    parts = [data[start : start + 1000] for start in range(0, size, 1000)]
    assert (found.bytes, found.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert list(found.chunks) == [hashlib.sha256(part).hexdigest() for part in parts]
    document.hash_files(tmp_path, [found], Progress())


def test_a_file_of_several_real_chunks(tmp_path: Path) -> None:
    """A byte behind the first chunk counts, and the message says where."""
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(CHUNK_BYTES + 5)
    found = document.describe(tmp_path, "large")
    zeros = hashlib.sha256(bytes(CHUNK_BYTES))
    assert found.chunks == (zeros.hexdigest(), hashlib.sha256(bytes(5)).hexdigest())
    zeros.update(bytes(5))
    assert found.sha256 == zeros.hexdigest()
    document.hash_files(tmp_path, [found], Progress())
    with path.open("r+b") as stream:
        stream.seek(CHUNK_BYTES + 3)
        stream.write(b"\x01")
    with pytest.raises(BundleError, match=f"bytes {CHUNK_BYTES} to {CHUNK_BYTES + 5}"):
        document.hash_files(tmp_path, [found], Progress())


def test_scripts_are_executable_whatever_their_mode(tmp_path: Path) -> None:
    (tmp_path / "install.sh").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "data").write_bytes(b"# no script")
    (tmp_path / "data").chmod(0o755)
    assert [one.executable for one in described(tmp_path)] == [False, True]


def test_a_file_of_a_name_that_no_bundle_may_have(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"")
    with pytest.raises(UsageError, match="a b"):
        document.describe(tmp_path, "a b")


class Counted(Progress):
    """What was reported."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, label: str, total: int) -> None:
        self.total += total

    def advance(self, units: int = 1) -> None:
        self.done += units


def test_the_first_wrong_file_is_named_and_progress_counts_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "CHUNK_BYTES", 1000)
    for number in range(20):
        (tmp_path / f"f{number:02}").write_bytes(bytes([number]) * 2500)
    files, progress = described(tmp_path), Counted()
    document.hash_files(tmp_path, files, progress)
    assert (progress.total, progress.done) == (50_000, 50_000)
    for number in (17, 5, 11):
        (tmp_path / f"f{number:02}").write_bytes(b"x" * 2500)
    with pytest.raises(BundleError, match="f05: not what was signed"):
        document.hash_files(tmp_path, files, Progress())


def test_a_document_cannot_grow_beyond_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many: list[Any] = [file(f"f{number:05}") for number in range(5_000)]
    raw = document.write(tmp_path, stated(many))
    assert len(document.parsed(raw, "it").files) == 5_000
    monkeypatch.setattr(document, "MOST_BYTES", len(raw) - 1)
    with pytest.raises(BundleError, match="5000 files"):
        document.write(tmp_path, stated(many))
