"""The first open on a machine is in a process of its own: what dies there is an error here."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.mutators_gguf import split
from material import Copy, edit_json, read_json

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import FILE_NAME
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.formats.onnx.header import read
from edgekit.machine import tried
from edgekit.progress import Progress
from edgekit.runtime import open_model, trial
from edgekit.runtime.llama import self_test
from edgekit.runtime.opening import prepare
from edgekit.runtime.parts import DecoderFile, RunOptions


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(self_test.VARIABLE, "plain")  # it is tested, and takes time, elsewhere
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # for the functions below


# ---------------------------------------------------------------- what a trial's process does in its place


def is_killed(job: Any) -> Iterator[tuple[str, bool]]:
    """After its first part."""
    yield job[0]["role"], True
    os.kill(os.getpid(), signal.SIGKILL)


def is_ended(job: Any) -> Iterator[tuple[str, bool]]:
    os.kill(os.getpid(), signal.SIGTERM)
    yield "", True


def finds_no_end(job: Any) -> Iterator[tuple[str, bool]]:
    time.sleep(600)
    yield "", True


def has_no_memory(job: Any) -> Iterator[tuple[str, bool]]:
    raise MemoryError("8 TB")
    yield "", True


# ---------------------------------------------------------------- what is made of it


def deadly(artifact: Path, target: Path) -> Path:
    """A decoder with a norm in 16 bits, for which llama.cpp ends the process."""
    (source,) = artifact.glob("medgemma-*-Q4_0.gguf")
    file = split(source.read_bytes())
    next(one for one in file.tensors if one.name == b"output_norm.weight").kind = 1
    target.write_bytes(file.join())
    return target


def decoder_piece(path: Path) -> trial.Piece:
    file = DecoderFile((path,), 256, 64, 16, path)
    return trial.Piece("decoder", "llama.cpp", "gguf", True, file.to_json(), RunOptions(1), (path.name,))


def nobody_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


def test_a_file_that_kills_its_library_is_an_error(medgemma_artifact: Path, tmp_path: Path) -> None:
    piece = decoder_piece(deadly(medgemma_artifact, tmp_path / "deadly.gguf"))
    with pytest.raises(ArtifactError, match=r"deadly\.gguf: llama\.cpp died on it: SIGABRT") as caught:
        trial.require([piece], Progress())
    assert caught.value.remedy
    assert not list(tried.folder().glob("part-*"))
    assert trial.died([piece], 60) == "it died with SIGABRT"


def test_what_lived_is_remembered_wherever_it_lies(
    medgemma_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files' contents are what counts, the library and how they are opened."""
    with monkeypatch.context() as patch:
        nobody_can_be_started(patch)
        with pytest.raises(EdgekitError, match="no process can be started to try"):
            open_model(medgemma_artifact, "Q4_0")
    open_model(medgemma_artifact, "Q4_0").close()
    assert len(list(tried.folder().glob("part-*"))) == 2
    folder = copied(medgemma_artifact)
    with monkeypatch.context() as patch:
        nobody_can_be_started(patch)
        open_model(folder, "Q4_0").close()
        with prepare(folder, "Q4_0").part("vision"):
            pass
        with pytest.raises(EdgekitError, match="no process can be started to try"):
            open_model(folder, "Q8_0")
        path = folder / next(file.path for file in manifests.read(folder).files if file.path.endswith("Q4_0.gguf"))
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # of a weight
        path.write_bytes(content)
        data = read_json(folder / FILE_NAME)
        index = next(i for i, part in enumerate(data["parts"]) if part["files"][0]["path"] == path.name)
        edit_json(folder / FILE_NAME, {f"parts.{index}.files.0": manifests.file_entry(folder, path).model_dump()})
        with pytest.raises(EdgekitError, match="no process can be started to try"):
            open_model(folder, "Q4_0")


def test_onnx_parts_are_tried_too(medsiglip_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(medsiglip_artifact, "fp32")  # has its tokenizer tried, which comes first
    with monkeypatch.context() as patch:
        nobody_can_be_started(patch)
        for runtime in ("onnxruntime", "openvino"):
            with pytest.raises(EdgekitError, match=r"try .*vision_model\.onnx in"):
                open_model(medsiglip_artifact, "fp32", runtime=runtime)
    open_model(medsiglip_artifact, "fp32", runtime="onnxruntime").close()
    nobody_can_be_started(monkeypatch)
    open_model(medsiglip_artifact, "fp32", runtime="onnxruntime").close()
    with pytest.raises(EdgekitError, match=r"try .*vision_model\.onnx in"):  # lived in another library
        open_model(medsiglip_artifact, "fp32", runtime="openvino")


def test_a_cache_that_cannot_be_written_costs_time_only(
    medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    open_model(medsiglip_artifact, "fp32").close()
    nobody_can_be_started(monkeypatch)
    with pytest.raises(EdgekitError, match="no process can be started"):
        open_model(medsiglip_artifact, "fp32")


@pytest.mark.parametrize(
    ("work", "kind", "said"),
    [
        (is_killed, ArtifactError, r"vision_model|text_model.*was killed on it, as systems do when memory runs out"),
        (is_ended, EdgekitError, r"the process that tried it was ended by SIGTERM"),
        (has_no_memory, ArtifactError, r"ONNX Runtime died on it: exit code 1 \(MemoryError: 8 TB\)"),
        (finds_no_end, ArtifactError, r"ONNX Runtime found no end within \d s"),
    ],
)
def test_every_end_is_said(
    medsiglip_artifact: Path, monkeypatch: pytest.MonkeyPatch, work: Any, kind: type[EdgekitError], said: str
) -> None:
    monkeypatch.setattr(trial, "attempt", work)
    monkeypatch.setattr(trial, "LEAST_S", 3.0 if work is finds_no_end else 300.0)
    with pytest.raises(kind, match=said) as caught:
        open_model(medsiglip_artifact, "fp32", runtime="onnxruntime")
    assert type(caught.value) is kind
    assert not list(tried.folder().glob("part-*"))


def test_what_is_refused_is_refused_in_the_same_words(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / FILE_NAME, {"preprocessing.size": 96, "foreign": True})
    for _ in range(2):  # and is not remembered as right
        with pytest.raises(ArtifactError, match=r"vision_model\.onnx: input pixel_values is FLOAT") as caught:
            open_model(folder, "fp32", runtime="onnxruntime")
        assert caught.value.allowed == "FLOAT [any, 3, 96, 96]"


def test_no_more_is_remembered_than_can_be_used(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried, "MOST", 5)
    tried.folder().mkdir(parents=True)
    for i in range(9):
        (tried.folder() / f"{i}").write_bytes(b"")
        os.utime(tried.folder() / f"{i}", (i, i))
    (path,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    piece = decoder_piece(path)
    trial.require([piece], Progress())
    assert {one.name for one in tried.folder().iterdir()} == {"5", "6", "7", "8", piece.key}


def test_large_files_are_said_to_take_long(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(trial, "LARGE_BYTES", 1_000_000)
    for _ in range(2):
        open_model(medgemma_artifact, "Q4_0", progress=Told()).close()
    (note,) = said
    assert "Q4_0.gguf" in note
    assert "once in a process of its own" in note


# ---------------------------------------------------------------- what the files say, and the manifest

FOREIGN = {"foreign": True}  # without configuration beside it, so that the parts' files alone can tell
DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "window": ({"settings.window": 1024}, r"settings\.window is 1024, medgemma-\S+ says 64"),
    "context": ({"settings.context": 4096}, r"settings\.context is 4096, medgemma-\S+ says 8192"),
    "hidden": ({"settings.hidden": 128}, r"settings\.hidden is 128, \S+ says 256"),
    "vocabulary": ({"settings.vocabulary": 2000}, r"the embedding has 2000 rows"),
    "image": ({"settings.image_token_id": 9}, r"settings\.image_token_id is 9, \S+ says 2048"),
    "before an image": ({"settings.boi_token_id": 7}, r"settings\.boi_token_id is 7, \S+ says 6"),
    "end of a turn": ({"settings.stop_token_ids": [9]}, r"settings\.stop_token_ids is \[9\], \S+ says \[1, 5\]"),
    "chat": ({"settings.chat": False}, r"settings\.chat is False, \S+ says True"),
    "tokens": ({"settings.image_tokens": 64}, r"settings\.image_tokens is 64, mmproj-\S+ says 16"),
    "mean": ({"preprocessing.mean": [0.4, 0.5, 0.5]}, r"preprocessing\.mean is \(0\.4, 0\.5, 0\.5\), mmproj-\S+ says"),
    "deviation": ({"preprocessing.std": [0.5, 0.5, 0.2]}, r"preprocessing\.std is"),
    "size": ({"preprocessing.size": 448}, r"preprocessing\.size is 448, mmproj-\S+ says 224"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_manifest_that_says_something_else_than_its_gguf_files(
    medgemma_artifact: Path, copied: Copy, case: str
) -> None:
    """What gave other answers, and no error."""
    changes, said = DIFFERENCES[case]
    folder = copied(medgemma_artifact)
    edit_json(folder / FILE_NAME, {**changes, **FOREIGN})
    with pytest.raises(ArtifactError, match=said):
        open_model(folder, "Q4_0")


@pytest.mark.parametrize("command", ["prove", "bench"])
def test_a_vocabulary_that_is_no_number_is_refused_as_when_it_is_opened(
    medgemma_artifact: Path, copied: Copy, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Both reckon how large logits will be before they open anything."""
    folder = copied(medgemma_artifact)
    edit_json(folder / FILE_NAME, {"settings.vocabulary": "many"})
    assert cli.main([command, str(folder), "--level", "Q4_0"]) == 1
    said = capsys.readouterr().err
    assert "settings.vocabulary is 'many', config.json says 2112" in said
    assert "did not expect" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings.hidden": 128}, r"settings\.hidden is 128, decoder_model_merged_q4\.onnx says 256"),
        ({"settings.vocabulary": 9}, r"the embedding has 9 rows"),
        ({"settings.image_tokens": 4}, r"settings\.image_tokens is 4, vision_encoder\S* says 16"),
    ],
)
def test_a_manifest_that_says_something_else_than_its_onnx_graphs(
    medgemma_onnx: Path, copied: Copy, changes: dict[str, Any], said: str
) -> None:
    folder = copied(medgemma_onnx)
    edit_json(folder / FILE_NAME, {**changes, **FOREIGN})
    with pytest.raises(ArtifactError, match=said):
        open_model(folder, "q4")


def test_a_manifest_that_says_another_width_of_a_pair(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / FILE_NAME, {"settings.hidden": 96, **FOREIGN})
    (path,) = folder.glob("onnx/vision_model.onnx")
    width = next(value.shape for value in read(path).outputs if value.name == "pooler_output")
    with pytest.raises(ArtifactError, match=rf"settings\.hidden is 96, vision_model\.onnx says {(width or ())[1]}"):
        open_model(folder, "fp32")
