"""Caches of several sequences, backend by backend; what all of them keep is in `conformance/test_sequences.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, SnapshotError, UsageError
from edgekit.formats.gguf.library import library
from edgekit.machine.memory import Memory
from edgekit.runtime.backends import BACKENDS
from edgekit.runtime.base import Float, Tokens
from edgekit.runtime.llama.decoder import CacheForm, LlamaDecoder
from edgekit.runtime.onnx.decoder import OrtDecoder
from edgekit.runtime.opening import prepare
from edgekit.runtime.parts import DecoderFile, RunOptions
from edgekit.runtime.snapshots import fingerprint, pack
from edgekit.runtime.stub import StubDecoder

CONTEXT, LONG = 1300, 1100
IDS = np.random.default_rng(0).integers(2, 1000, LONG + 100).tolist()

Llama = Callable[..., LlamaDecoder]
Ort = Callable[..., OrtDecoder]


def text(begin: int, end: int) -> Tokens:
    return Tokens(tuple(IDS[begin:end]))


def following(decoder: Any, begin: int, end: int, sequence: int = 0) -> Float:
    """Logits behind each of these tokens."""
    held = decoder.length(sequence)
    rows = decoder.extend([text(begin, end)], range(held, held + end - begin), sequence=sequence)
    return np.stack(list(rows))


def apart(actual: Float, expected: Float) -> float:
    return float((np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def parts(snapshot: bytes) -> tuple[str, bytes]:
    """What a snapshot says of its decoder, and what the backend saved."""
    length, size = struct.unpack_from("<QI", snapshot, 44)
    identity, state = snapshot[56 : 56 + size].decode(), snapshot[56 + size :]
    assert pack(identity, length, state) == snapshot
    return identity, state


def decoder_file(folder: Path, level: str) -> DecoderFile:
    return replace(prepare(folder, level).decoder_file("decoder"), context=CONTEXT)


@pytest.fixture
def llama(medgemma_artifact: Path) -> Iterator[Llama]:
    opened: list[LlamaDecoder] = []

    def open_one(level: str = "Q8_0", *, context: int = CONTEXT, **form: Any) -> LlamaDecoder:
        path = decoder_file(medgemma_artifact, level).files[0]
        opened.append(LlamaDecoder(path, context=context, threads=2, image_tokens=16, cache=CacheForm(**form)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def ort(medgemma_onnx: Path) -> Iterator[Ort]:
    opened: list[OrtDecoder] = []

    def open_one(**options: Any) -> OrtDecoder:
        file = decoder_file(medgemma_onnx, "q4")
        graphs = [path for path in file.files if path.suffix == ".onnx"]
        common = {"context": CONTEXT, "window": file.window, "threads": 2, "image_tokens": 16, "listed": file.files}
        opened.append(OrtDecoder((graphs[0], graphs[1]), **{**common, **options}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


# ---------------------------------------------------------------- llama.cpp


class Trusting(LlamaDecoder):
    """Takes the library's word for it that all can be cut."""

    def _first(self, sequence: int) -> int:
        return 0


def test_llama_cpp_agrees_to_cuts_that_its_windowed_cache_has_forgotten(
    medgemma_artifact: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the bound is reckoned here: below it the library says yes, and other logits follow."""
    careful = llama(exact=True)
    list(careful.prefill([text(0, LONG)]))
    least = careful.shortest()
    assert least > 100
    cut, answers = library().llama_memory_seq_rm, []
    monkeypatch.setattr(library(), "llama_memory_seq_rm", lambda *given: answers.append(cut(*given)))
    path = decoder_file(medgemma_artifact, "Q8_0").files[0]
    with closing(Trusting(path, context=CONTEXT, threads=2, image_tokens=16, cache=CacheForm(exact=True))) as decoder:
        for length, right in ((least, True), (least - 1, False), (100, False)):
            list(decoder.prefill([text(0, LONG)]))
            decoder.truncate(length)
            row = decoder.step(IDS[length : length + 1])
            (expected,) = decoder.prefill([text(0, length + 1)])
            assert (apart(row[None], expected[None]) < 1e-5) == right
    assert answers == [True] * 3


def test_a_rounded_cache_is_near_and_an_exact_one_is_not_rounded(llama: Llama) -> None:
    rows = {}
    for cache_type in LlamaDecoder.cache_types:
        decoder = llama(type=cache_type, sequences=2)
        assert decoder.cache_type == cache_type
        rows[cache_type] = np.stack([next(decoder.prefill([text(0, 300)], sequence=one)) for one in (0, 1)])
    assert set(rows) == {"f16", "q8_0"}
    assert 0 < apart(rows["q8_0"], rows["f16"]) < 0.05
    exact = [llama(type=one, exact=True) for one in LlamaDecoder.cache_types]
    assert [one.cache_type for one in exact] == ["f32", "f32"]
    first, second = (next(one.prefill([text(0, 300)])) for one in exact)
    assert (first == second).all()


def test_what_no_cache_can_be_is_refused(llama: Llama, ort: Ort, medgemma_onnx: Path) -> None:
    with pytest.raises(UsageError, match=r"a cache of 'q4_0'(.|\n)*f16, q8_0"):
        llama(type="q4_0")
    with pytest.raises(UsageError, match=r"a cache of q8_0 in ONNX Runtime(.|\n)*f32"):
        BACKENDS["onnxruntime"].decoders["onnx"](decoder_file(medgemma_onnx, "q4"), RunOptions(2, cache_type="q8_0"))
    for count in (0, -1, 257, 1.5):
        for opener in (llama, ort, StubDecoder):
            with pytest.raises(UsageError, match=rf"{count} sequences(.|\n)*1 to 256"):
                opener(sequences=count)


@pytest.mark.parametrize("kind", ["llama", "ort"])
def test_memory_is_reckoned_for_all_sequences(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Global layers grow with the context: half as much of it fits twice, within what the windowed ones take."""
    opener = request.getfixturevalue(kind)
    monkeypatch.setattr("edgekit.runtime.base.memory", lambda: Memory(10**9, 12_000_000))

    def most(**options: Any) -> int:
        with pytest.raises(UsageError, match="memory are free") as caught:
            opener(context=100_000, **options)
        return int(str(caught.value.allowed).split()[2])

    one, two = most(), most(sequences=2)
    assert 0.2 * one < two < 0.5 * one
    if kind == "llama":
        assert 0.2 * one < most(exact=True) < 0.5 * one
        assert 1.8 * one < most(type="q8_0") < 2.5 * one


def test_sequences_share_a_call(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, calls = llama(sequences=3), []
    decode = library().llama_decode
    monkeypatch.setattr(library(), "llama_decode", lambda *given: calls.append(given) or decode(*given))
    rows = decoder.decode({0: [3], 1: [4, 5, 6], 2: [7, 8]})
    assert {sequence: len(given) for sequence, given in rows.items()} == {0: 1, 1: 3, 2: 2}
    assert decoder.batched
    assert len(calls) == 1


def test_a_failed_call_leaves_empty_sequences(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = llama(sequences=3)
    for sequence in range(3):
        list(decoder.prefill([text(0, 40)], sequence=sequence))
    with monkeypatch.context() as broken:
        broken.setattr(library(), "llama_decode", lambda context, batch: -3)
        with pytest.raises(InputError, match=r"cannot decode at position 40 \(status -3\)"):
            decoder.decode({0: [3], 2: [3]})
    assert [decoder.length(sequence) for sequence in (0, 2)] == [0, 0]
    assert decoder.length(1) in (0, 40), "what was computed beside them is as it was, or is gone"
    for sequence in (0, 1):
        list(decoder.prefill([text(0, 40)], sequence=sequence))
    assert apart(following(decoder, 40, 45), following(decoder, 40, 45, 1)) < 0.02


# ---------------------------------------------------------------- snapshots


def test_a_snapshot_of_other_weights_or_another_cache_is_refused(llama: Llama) -> None:
    """Shapes alike, the numbers are another's."""
    decoder, others = llama(), [llama("Q4_0"), llama(type="q8_0"), llama(exact=True), llama(sequences=2)]
    list(decoder.prefill([text(0, 30)]))
    for other in others:
        with pytest.raises(SnapshotError, match="a snapshot of another decoder"):
            other.restore(decoder.snapshot())
        assert other.length() == 0
        list(other.prefill([text(0, 30)]))
        with pytest.raises(SnapshotError, match="a snapshot of another decoder"):
            decoder.restore(other.snapshot(), sequence=0)
        list(decoder.prefill([text(0, 30)]))


@pytest.mark.parametrize("kind", ["llama", "ort", "stub"])
def test_what_a_backend_cannot_read_is_refused_behind_the_frame(request: pytest.FixtureRequest, kind: str) -> None:
    """A right checksum over what no backend wrote."""
    decoder = StubDecoder() if kind == "stub" else request.getfixturevalue(kind)()
    list(decoder.prefill([Tokens(tuple(one % 60 for one in IDS[:40]))]))
    identity, state = parts(decoder.snapshot())
    for length, wrong in ((40, state[:-4]), (41, state), (39, state), (40, state[:1]), (40, state + state)):
        with pytest.raises(SnapshotError):
            decoder.restore(pack(identity, length, wrong))
        assert decoder.length() == 0
        assert np.isfinite(decoder.step([3])).all()
    decoder.restore(pack(identity, 40, state))
    assert decoder.length() == 40


def test_positions_that_the_window_would_miss_are_refused(ort: Ort) -> None:
    decoder = ort()
    list(decoder.prefill([text(0, LONG)]))
    identity, state = parts(decoder.snapshot())
    for first in (LONG, LONG - decoder.window + 2, 2**63):
        with pytest.raises(SnapshotError, match=f"begins at {first}"):
            decoder.restore(pack(identity, LONG, struct.pack("<Q", first) + state[8:]))
        assert decoder.length() == 0


@pytest.mark.parametrize("chunks", [(256, 40), (40, 256)])
def test_rings_of_another_size_take_what_they_need(ort: Ort, chunks: tuple[int, int]) -> None:
    """How a prompt is divided says how large rings are; a snapshot fits them all."""
    one, other = ort(), ort()
    for decoder, size in zip((one, other), chunks, strict=True):
        decoder.set_chunk_size(size)
    list(one.prefill([text(0, LONG)]))
    other.restore(one.snapshot())
    length = other.shortest()
    assert length == max(one.shortest(), LONG - chunks[1])
    assert apart(following(other, LONG, LONG + 90), following(one, LONG, LONG + 90)) < 0.02
    other.restore(one.snapshot())
    other.truncate(other.shortest())
    held = other.length()
    continued = following(other, 0, 90)
    (last,) = one.prefill([text(0, held), text(0, 90)])
    assert apart(continued[-1:], last[None]) < 0.02


def test_files_are_told_apart_by_size_and_content(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    contents = [data, data[:-1], data[:100] + b"?" + data[101:], data[:-1] + b"?", b"", b"a", b"b"]
    seen = set()
    for number, content in enumerate(contents):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "weights").write_bytes(content)
        (folder / "again").write_bytes(content)
        seen.add(fingerprint([folder / "weights"]))
        assert fingerprint([folder / "weights"]) == fingerprint([folder / "again"])
    assert len(seen) == len(contents)
