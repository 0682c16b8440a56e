"""The bounded header reader, against gguf's own reader on right files and against damage of every kind."""

from __future__ import annotations

import math
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import rewrite
from hypothesis import given
from hypothesis import strategies as st

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS
from edgekit.errors import ArtifactError
from edgekit.families.gemma3 import gguf_form
from edgekit.formats.gguf.form import read_checked
from edgekit.formats.gguf.header import FILE_TYPES, TYPES, read_header
from edgekit.formats.gguf.writer import file_type
from edgekit.runtime.llama import self_test_worker
from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision
from edgekit.runtime.opening import prepare

TINY = self_test_worker.tiny_decoder()
HEADER_BYTES = TINY.index(b"blk.7.attn_k_norm.weight")  # the last tensor that the header describes


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def field(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    fields: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 4096,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file of these pieces, right or wrong."""
    fields, tensors = fields or [], tensors or []
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(fields))))
    head += b"".join(fields) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return put


def test_types_and_levels_are_llama_cpps() -> None:
    for number, (name, block, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, size)
    for number, name in FILE_TYPES.items():
        spelled = gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
        assert spelled == name
    for row in LEVELS.values():
        if row.name in FILE_TYPES.values():
            assert FILE_TYPES[file_type(row)] == row.name


def test_reads_what_ggufs_reader_reads(medgemma_artifact: Path) -> None:
    """All fields and tensors of every exported file."""
    files = sorted(medgemma_artifact.glob("*.gguf"))
    assert len(files) >= 4
    for path in files:
        theirs, ours = gguf.GGUFReader(path), read_header(path)
        expected = {name: one.contents() for name, one in theirs.fields.items() if not name.startswith("GGUF.")}
        assert set(ours.fields) == set(expected)
        for name, value in ours.fields.items():
            assert np.array_equal(value, expected[name]) if isinstance(value, np.ndarray) else value == expected[name]
        assert list(ours.tensors) == [one.name for one in theirs.tensors]
        for one in theirs.tensors:
            found = ours.tensors[one.name]
            assert found.shape == tuple(int(side) for side in reversed(one.shape))
            assert (found.type, found.offset, found.bytes) == (one.tensor_type.name, one.data_offset, one.n_bytes)
            assert found.weights == one.n_elements


def test_every_value_type(write: Callable[[bytes], Path]) -> None:
    """Written by gguf's writer."""
    path = write(b"")
    writer = gguf.GGUFWriter(path, "gemma3")
    for kind, value in {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 1 << 31, "int32": -70000,
                        "uint64": 1 << 40, "int64": -(1 << 40), "float32": 0.5, "float64": 1e300, "bool": True,
                        "string": "größe"}.items():  # fmt: skip
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_array("texts", ["a", "", "▁b"])
    writer.add_array("whole", [1, -2])
    writer.add_array("real", [0.5, 2.0])
    writer.add_array("flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_header(path)
    assert found.fields["bool"] is True
    assert (found.fields["uint8"], found.fields["int64"], found.fields["float64"]) == (200, -(1 << 40), 1e300)
    assert (found.text("string"), found.texts("texts")) == ("größe", ["a", "", "▁b"])
    assert (found.integer("uint32"), found.numbers("real", 2)) == (1 << 31, [0.5, 2.0])
    assert found.fields["flags"].tolist() == [1, 0]
    assert found.text("none", "else") == "else"
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: found.text("none"), "has no none"),
        (lambda: found.text("int8"), "a string"),
        (lambda: found.integer("int8"), "0 or more"),
        (lambda: found.integer("bool"), "0 or more"),
        (lambda: found.integer("string"), "a whole number"),
        (lambda: found.numbers("real", 3), "3 finite numbers"),
        (lambda: found.numbers("texts", 3), "an array of numbers"),
        (lambda: found.texts("real"), "an array of strings"),
    ]
    for get, said in wrong:
        with pytest.raises(ArtifactError, match=said):
            get()


U32 = struct.Struct("<I").pack
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "magic at byte 0 reaches beyond the end"),
    "other": (b"PK\x03\x04" + bytes(60), "other bytes than a GGUF file"),
    "cut": (b"GGUF\x03\x00", "version at byte 4 reaches beyond"),
    "version": (file(version=1), "GGUF version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors": (file(counts=(1 << 40, 0)), "1099511627776 tensors"),
    "fields": (file(counts=(0, 1 << 40)), "1099511627776 fields"),
    "key length": (file([struct.pack("<Q", 1 << 30)]), "a key has 1073741824 bytes"),
    "key bytes": (file([field(b"\xff\xfe", 4, U32(1))]), "a key is not UTF-8"),
    "no key": (file([field("", 4, U32(1))]), "'' is empty"),
    "key twice": (file([field("a", 4, U32(1))] * 2), "'a' is empty or stands twice"),
    "value type": (file([field("a", 13, U32(1))]), "unknown value type 13"),
    "string length": (file([field("a", 8, struct.pack("<Q", 1 << 27))]), "a at byte .* beyond the end"),
    "string bytes": (file([field("a", 8, text(b"\xff"))]), "a is not UTF-8"),
    "long array": (file([field("a", 9, struct.pack("<IQ", 4, 1 << 62))]), "a at byte .* beyond the end"),
    "many strings": (file([field("a", 9, struct.pack("<IQ", 8, 1 << 62))]), "4611686018427387904 strings"),
    "array of arrays": (file([field("a", 9, struct.pack("<IQ", 9, 1))]), "unknown value type 9"),
    "alignment": (file([field("general.alignment", 4, U32(24))]), "general.alignment is 24"),
    "alignment 0": (file([field("general.alignment", 4, U32(0))]), "general.alignment is 0"),
    "alignment text": (file([field("general.alignment", 8, text("32"))]), "general.alignment is '32'"),
    "name": (file(tensors=[tensor("x" * 64)]), "name has 64 bytes"),
    "name twice": (file(tensors=[tensor(), tensor(offset=128)]), "'t' stands twice"),
    "dimensions": (file(tensors=[tensor(shape=(1,) * 5)]), "5 dimensions"),
    "no dimension": (file(tensors=[tensor(shape=())]), "0 dimensions"),
    "empty tensor": (file(tensors=[tensor(shape=(32, 0))]), "shape"),
    "huge": (file(tensors=[tensor(shape=(1 << 62, 1 << 62, 1 << 62, 32))]), "ends at byte"),
    "type": (file(tensors=[tensor(kind=4)]), "unknown type 4"),
    "block": (file(tensors=[tensor(shape=(48,), kind=8)]), "whole blocks of 32"),
    "offset": (file(tensors=[tensor(offset=4)]), "multiples of 32"),
    "overlap": (file(tensors=[tensor("a"), tensor("b", offset=96)]), "'a' and 'b' overlap"),
    "beyond": (file(tensors=[tensor(shape=(1025,))]), "ends at byte .*, the file at"),
    "far": (file(tensors=[tensor(offset=1 << 63)]), "ends at byte"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(write: Callable[[bytes], Path], case: str) -> None:
    content, said = WRONG[case]
    path = write(content)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_missing_and_unreadable(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.gguf", "cannot be read"), (tmp_path, "is no regular file")):
        with pytest.raises(ArtifactError, match=said):
            read_header(path)


def test_version_2_is_read(write: Callable[[bytes], Path]) -> None:
    content = file([field("a", 4, U32(7))], [tensor()], version=2)
    assert read_header(write(content)).integer("a") == 7


@pytest.fixture(scope="module")
def damaged_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "model.gguf"


@given(st.integers(0, 1 << 32))
def test_damage_is_refused_or_harmless(damaged_file: Path, seed: int) -> None:
    """Bytes set, numbers replaced by extreme ones, pieces cut out or doubled, ends cut off: nothing but ArtifactError,
    and at once. What is still accepted lies within the file."""
    rng = random.Random(seed)
    data = bytearray(TINY)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(HEADER_BYTES)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1)))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            del data[rng.randrange(len(data)) :]
    damaged_file.write_bytes(data)
    started = time.monotonic()
    try:
        found = read_header(damaged_file)
    except ArtifactError:
        pass
    else:
        assert all(0 < one.offset <= one.offset + one.bytes <= len(data) for one in found.tensors.values())
        assert all(one.weights == math.prod(one.shape) for one in found.tensors.values())
    assert time.monotonic() - started < 1


def test_the_library_never_sees_a_wrong_file(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off by one byte: refused before llama.cpp is even loaded."""
    from edgekit.runtime.llama import decoder as llamacpp

    monkeypatch.setattr(llamacpp, "library", lambda: pytest.fail("the library was loaded"))
    path = write(TINY[:-1])
    with pytest.raises(ArtifactError, match="the file at"):
        LlamaDecoder(path, context=64, threads=1, image_tokens=1)
    with pytest.raises(ArtifactError, match="the file at"):
        LlamaVision(path, None, size=224, image_tokens=16)  # type: ignore[arg-type]


PROJECTION = "mm.input_projection.weight"


def embeddings(projector: Path, language: Path) -> Any:
    decoder = LlamaDecoder(language, context=64, threads=1, image_tokens=16)
    try:
        vision = LlamaVision(projector, decoder, size=224, image_tokens=16)
        try:
            return vision.encode(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8))
        finally:
            vision.close()
    finally:
        decoder.close()


# In a process of its own: llama.cpp writes beyond its memory. Nothing but an artifact's opening checks its header.
UNGUARDED = """
import sys, numpy, test_gguf_header
from pathlib import Path
sys.exit(0 if numpy.isfinite(test_gguf_header.embeddings(*map(Path, sys.argv[1:]))).all() else 3)
"""


def test_a_quantized_projection_is_refused(medgemma_artifact: Path, tmp_path: Path) -> None:
    """llama.cpp itself loads such a file without a word, then answers NaN or dies."""
    (source,) = medgemma_artifact.glob("mmproj-*-BF16.gguf")
    (language,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    expected = embeddings(source, language)
    for kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.BF16):
        path = tmp_path / f"{kind.name}.gguf"
        rewrite(source, path, types={PROJECTION: kind})
        assert np.abs(embeddings(path, language) - expected).max() < 0.02, kind
    path = tmp_path / "Q8_0.gguf"
    rewrite(source, path, types={PROJECTION: gguf.GGMLQuantizationType.Q8_0})
    with pytest.raises(ArtifactError, match=r"mm.input_projection.weight is quantized to Q8_0") as caught:
        read_checked(gguf_form.VISION, path)
    assert caught.value.allowed == "F32, F16, BF16"
    command = [sys.executable, "-c", UNGUARDED, str(path), str(language)]
    assert subprocess.run(command, capture_output=True, cwd=Path(__file__).parent, check=False).returncode in (
        3,
        -6,
        -11,
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("clip.vision.block_count", 3, "clip.vision.block_count is 3, and 4 layers are there"),
        ("clip.vision.embedding_length", 28, r"has the shape \[160, 256\]\nallowed: \[28, 256\]"),
        ("clip.vision.attention.head_count", 0, "0 attention heads"),
        ("clip.vision.attention.head_count", 3, "3 attention heads in a width of 160"),
        ("clip.vision.image_size", 28, "28 px cannot be cut into patches of 14 px, pooled by 4"),
        ("clip.vision.image_size", 56, r"v.position_embd.weight has the shape \[256, 160\]"),
        ("clip.vision.patch_size", 0, "patches of 0 px"),
        ("clip.vision.patch_size", 7, "v.patch_embd.weight"),
        ("clip.vision.projection_dim", 128, "mm.input_projection.weight"),
        ("clip.projector_type", "gemma3nv", "a projector of type 'gemma3nv'"),
        ("clip.projector_type", ..., "a projector of type 'none'"),
    ],
)
def test_numbers_that_llama_cpp_believes(
    medgemma_artifact: Path, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    """Most of these end the process when llama.cpp meets them."""
    (source,) = medgemma_artifact.glob("mmproj-*-BF16.gguf")
    path = rewrite(source, tmp_path / "projector.gguf", fields={key: value})
    with pytest.raises(ArtifactError, match=said):
        read_checked(gguf_form.VISION, path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_an_epsilon_that_llama_cpp_would_not_survive(medgemma_artifact: Path, tmp_path: Path, value: float) -> None:
    """It asserts that there is none below 0, and NaN is not at least 0."""
    for pattern, form, key in (
        ("mmproj-*-BF16.gguf", gguf_form.VISION, "clip.vision.attention.layer_norm_epsilon"),
        ("medgemma-*-Q4_0.gguf", gguf_form.DECODER, "gemma3.attention.layer_norm_rms_epsilon"),
    ):
        (source,) = medgemma_artifact.glob(pattern)
        path = rewrite(source, tmp_path / "epsilon.gguf", fields={key: value})
        with pytest.raises(ArtifactError, match=rf"{key} is (nan|inf|-1)"):
            read_checked(form, path)


@pytest.mark.parametrize("layers", [0, 1, 8, 1 << 31])
def test_layers_that_are_not_there(medgemma_artifact: Path, tmp_path: Path, layers: int) -> None:
    (source,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    path = rewrite(source, tmp_path / "decoder.gguf", fields={"gemma3.block_count": layers})
    with pytest.raises(ArtifactError, match=f"gemma3.block_count is {layers}, and 7 layers are there"):
        read_checked(gguf_form.DECODER, path)


def test_what_llama_cpp_would_trust_is_checked_where_an_artifact_is_opened(
    medgemma_artifact: Path, copied: Callable[[Path], Path]
) -> None:
    folder = copied(medgemma_artifact)
    manifest = manifests.read(folder)
    for part in manifest.parts:
        path = folder / part.files[0].path
        key = "gemma3.block_count" if part.role == "decoder" else "clip.vision.block_count"
        rewrite(path.rename(folder / "right.gguf"), path, fields={key: 3})
    parts = [
        part.model_copy(update={"files": (manifests.file_entry(folder, folder / part.files[0].path),)})
        for part in manifest.parts
    ]
    manifests.write(folder, manifest.model_copy(update={"parts": tuple(parts)}))
    opening = prepare(folder, "Q4_0")
    with pytest.raises(ArtifactError, match=r"gemma3\.block_count is 3, and 7 layers are there"):
        opening.decoder("decoder")
    with pytest.raises(ArtifactError, match=r"clip\.vision\.block_count is 3, and 4 layers are there"):
        opening.encoder("vision")
