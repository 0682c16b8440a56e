"""Files that others made: opened and asked like edgekit's own, marked as unproven, refused where they cannot work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import rewrite
from material import contents

from edgekit import cli
from edgekit.artifacts import manifest
from edgekit.artifacts.manifest import FOREIGN
from edgekit.commands.support import artifact_text
from edgekit.errors import ArtifactError, CheckpointError, EdgekitError, InputError, UsageError
from edgekit.export.adopt import Adopted, adopt
from edgekit.formats.gguf.header import read_header
from edgekit.formats.gguf.library import tokenize
from edgekit.formats.gguf.tokenizer import tokenizer_of
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.inputs.text import control_tokens, load_tokenizer
from edgekit.inputs.tokenizer_texts import texts
from edgekit.runtime import open_model


@pytest.fixture(scope="module")
def adopted(decoder: Path, projector: Path, tmp_path_factory: pytest.TempPathFactory) -> Adopted:
    return adopt(decoder, tmp_path_factory.mktemp("adopted") / "theirs", vision=projector)


def test_answers_as_the_original_does(adopted: Adopted, medgemma_artifact: Path) -> None:
    """The same files under edgekit's own manifest: same prompt, same pixels, same scores and text."""
    (phantom,) = phantoms.generate(77, 1)
    messages = [Message("user", Image(phantom.image), "What is the main finding in this image?")]
    theirs, ours = open_model(adopted.folder), open_model(medgemma_artifact, "Q4_0")
    try:
        options = ["pneumothorax", "no finding"]
        assert np.array_equal(theirs.score(messages, options), ours.score(messages, options))
        *_, found = theirs.generate(messages, max_tokens=12)
        *_, expected = ours.generate(messages, max_tokens=12)
        assert found.text == expected.text  # type: ignore[union-attr]
        assert FOREIGN in found.warnings  # type: ignore[union-attr]
        assert not any("edgekit prove" in warning for warning in theirs.warnings)
        with pytest.raises(InputError, match="control token"):
            theirs.score([Message("user", "<end_of_turn>")], options)
    finally:
        theirs.close()
        ours.close()


def test_the_manifest_says_what_is_known(adopted: Adopted, medgemma_artifact: Path, decoder: Path) -> None:
    found, ours = manifest.read(adopted.folder), manifest.read(medgemma_artifact)
    assert found == adopted.manifest
    manifest.verify(adopted.folder, found.files)
    assert found.foreign
    assert not ours.foreign
    assert all(part.parity is None for part in found.parts)
    assert found.settings == {key: ours.settings[key] for key in found.settings}
    assert {"context", "window", "hidden", "image_tokens", "image_token_id", "stop_token_ids"} <= set(found.settings)
    assert found.preprocessing == ours.preprocessing
    assert (found.default, found.title) == ("Q4_0", ours.title)
    expected = ours.variant("Q4_0")[1]
    for role, part in found.variant(None)[1].items():
        for name in ("level", "output", "requires"):
            assert getattr(part, name) == getattr(expected[role], name), (role, name)
        (file,) = part.files
        assert file.sha256 == expected[role].files[0].sha256
        stored = gguf.GGUFReader(adopted.folder / file.path).tensors
        assert part.weights == sum(int(one.n_elements) for one in stored) == sum(part.tensor_types.values())
        assert set(part.tensor_types) == {one.tensor_type.name for one in stored}
        assert part.bits_per_weight == pytest.approx(file.bytes * 8 / part.weights, abs=1e-3)
    assert f"foreign   {FOREIGN}" in artifact_text.artifact_lines(adopted.folder, found)
    linked = adopted.folder / decoder.name
    assert linked.stat().st_ino == decoder.stat().st_ino


def test_the_rebuilt_tokenizer(adopted: Adopted, decoder: Path, medgemma_source: Path) -> None:
    """Against llama.cpp's own ids, and against the tokenizer.json that the vocabulary came from."""
    rebuilt = load_tokenizer(adopted.folder / "tokenizer.json")
    original = load_tokenizer(medgemma_source / "tokenizer.json")
    assert control_tokens(rebuilt) == control_tokens(original)
    pieces = [token.replace("▁", " ") for token in original.get_vocab()]
    compared = texts(pieces, control_tokens(original), 600)
    found = [one.ids for one in rebuilt.encode_batch(compared, add_special_tokens=False)]
    assert found == tokenize(decoder, compared)
    assert found == [one.ids for one in original.encode_batch(compared, add_special_tokens=False)]
    for ids in found[:200]:
        assert rebuilt.decode(ids) == original.decode(ids)
    assert (adopted.compared, adopted.differing) == (1000, 0)


def test_the_command(
    decoder: Path, projector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A blob of Ollama's, which has no suffix; the files stay where they were. What is printed runs anywhere."""
    blob = tmp_path / "sha256-0123"
    shutil.copyfile(decoder, blob)
    command = ["adopt", str(blob), "--mmproj", str(projector), "--to", str(tmp_path / "a"), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["foreign"] is True
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "sha256-0123.gguf", projector.name, "tokenizer.json", "edgekit.json", "README.md",
    }  # fmt: skip
    assert blob.is_file()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["adopt", str(decoder), "--mmproj", str(projector), "--to", "b"]) == 0
    out = capsys.readouterr().out
    assert f"\nprove it with  edgekit prove {tmp_path / 'b'} --reference SOURCE\n" in out
    assert "0 of 1000 texts get other ids" in out
    assert f"llama-server -m {tmp_path / 'b' / decoder.name} --mmproj" in out


def test_a_decoder_alone(decoder: Path, tmp_path: Path) -> None:
    found = adopt(decoder, tmp_path / "theirs").manifest
    assert found.preprocessing is None
    assert "image_tokens" not in found.settings
    model = open_model(tmp_path / "theirs")
    try:
        assert len(model.score([Message("user", "Is there a nodule?")], ["yes", "no"])) == 2
    finally:
        model.close()


def test_a_tokenizer_that_is_given(
    decoder: Path, medgemma_source: Path, medsiglip_source: Path, tmp_path: Path
) -> None:
    given = medgemma_source / "tokenizer.json"
    adopt(decoder, tmp_path / "theirs", tokenizer=given)
    assert (tmp_path / "theirs" / "tokenizer.json").read_bytes() == given.read_bytes()
    with pytest.raises(ArtifactError, match=r"other ids than llama.cpp for \d+ of 1000 texts"):
        adopt(decoder, tmp_path / "wrong", tokenizer=medsiglip_source / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        adopt(decoder, tmp_path / "wrong", tokenizer=medsiglip_source / "config.json")
    assert not (tmp_path / "wrong").exists()


DECODERS: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"general.architecture": "llama"}, "its architecture is 'llama'"),
    "split": ({"split.count": 3}, "is one piece of a model"),
    "tokenizer": ({"tokenizer.ggml.model": "gpt2"}, "a tokenizer of kind 'gpt2'"),
    "no tokens": ({"tokenizer.ggml.tokens": ...}, "no tokenizer.ggml.tokens"),
    "no scores": ({"tokenizer.ggml.scores": [0.5, 1.0]}, "no array of 2112 finite numbers"),
    "unknown": ({"tokenizer.ggml.unknown_token_id": 9999}, "the unknown token is 9999"),
    "width": ({"gemma3.embedding_length": 128}, r"token_embd.weight has the shape \[2112, 256\]"),
    "layers": ({"gemma3.block_count": 0}, "gemma3.block_count is 0"),
}


@pytest.mark.parametrize("case", DECODERS)
def test_decoders_that_are_refused(decoder: Path, projector: Path, tmp_path: Path, case: str) -> None:
    fields, said = DECODERS[case]
    path = rewrite(decoder, tmp_path / "decoder.gguf", fields=fields)
    with pytest.raises(ArtifactError, match=said) as caught:
        adopt(path, tmp_path / "theirs", vision=projector)
    assert str(tmp_path) in caught.value.message or str(projector) in caught.value.message
    assert [entry.name for entry in tmp_path.iterdir()] == ["decoder.gguf"]


def test_other_files_that_are_refused(decoder: Path, projector: Path, tmp_path: Path) -> None:
    inside = {"v.patch_embd.weight": np.zeros((2, 2), np.float32)}
    whole = rewrite(decoder, tmp_path / "whole.gguf", added=inside)
    no_image = [f"[{i}]" if token == "<image_soft_token>" else token for i, token in enumerate(
        read_header(decoder).texts("tokenizer.ggml.tokens"))]  # fmt: skip
    blind = rewrite(decoder, tmp_path / "blind.gguf", fields={"tokenizer.ggml.tokens": no_image})
    flat = rewrite(projector, tmp_path / "flat.gguf", fields={"clip.vision.image_std": [0.5, 0.0, 0.5]})
    cases: list[tuple[Path, Path | None, str]] = [
        (projector, None, "its architecture is 'clip'"),
        (decoder, decoder, "its architecture is 'gemma3'"),
        (whole, None, "holds the vision tower, too"),
        (blind, projector, "no <image_soft_token>"),
        (decoder, flat, "clip.vision.image_std"),
        (tmp_path / "none.gguf", None, "cannot be read"),
    ]
    for file, vision, said in cases:
        with pytest.raises(ArtifactError, match=said):
            adopt(file, tmp_path / "theirs", vision=vision)
        assert not list(tmp_path.glob("*theirs*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
@pytest.mark.parametrize("option", ["decoder", "vision", "tokenizer"])
def test_a_pipe_is_not_waited_for(decoder: Path, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    given: dict[str, Any] = {"decoder": decoder, "folder": tmp_path / "theirs", option: tmp_path / "pipe"}
    with pytest.raises(EdgekitError, match=r"pipe: (is no regular file|no such file)"):
        adopt(**given)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_with_files_is_left_alone(decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        adopt(decoder, tmp_path)
    assert contents(tmp_path) == {"note.txt": b"mine"}
    empty = tmp_path / "empty"
    empty.mkdir()
    assert adopt(decoder, empty).manifest == manifest.read(empty)


def test_a_vocabulary_whose_ids_cannot_be_rebuilt(decoder: Path, tmp_path: Path) -> None:
    """Scores that were turned around: tokenizers and llama.cpp agree on those, and on nothing else."""
    header = read_header(decoder)
    scores = header.numbers("tokenizer.ggml.scores", 2112)
    turned = rewrite(decoder, tmp_path / "turned.gguf", fields={"tokenizer.ggml.scores": [-s for s in scores]})
    compared = texts(["pneumothorax", " heart"], ["<eos>"], 200)
    rebuilt = [one.ids for one in tokenizer_of(read_header(turned)).encode_batch(compared, add_special_tokens=False)]
    assert rebuilt != [one.ids for one in tokenizer_of(header).encode_batch(compared, add_special_tokens=False)]
    same = sum(ids == other for ids, other in zip(rebuilt, tokenize(turned, compared), strict=True))
    assert same >= 195
