"""Which tokens end an answer: the same in every runtime, by the tokenizer's names and by what the files state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gguf_files import rewrite
from material import Copy, edit_json, read_json

from edgekit.errors import ArtifactError, CheckpointError
from edgekit.export.adopt import adopt
from edgekit.families.source import open_source
from edgekit.formats.gguf.library import library
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model

transformers = pytest.importorskip("transformers")

# <eos>, <start_of_turn>, <end_of_turn> and <start_of_image> of the reference model, and one of its pieces
EOS, TURN, TURN_END, BEGIN = 1, 4, 5, 6
TEXT = 300


def stating(folder: Path, **stated: Any) -> Path:
    """The folder with eos_token_id where the names say, and nowhere else: of generation, config or text_config."""
    changes = {"eos_token_id": stated.get("config"), "text_config.eos_token_id": stated.get("text")}
    edit_json(folder / "config.json", changes)
    if "generation" in stated:
        edit_json(folder / "generation_config.json", {"eos_token_id": stated["generation"]})
    else:
        (folder / "generation_config.json").unlink()
    return folder


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "as published": ({"generation": [EOS, TURN_END], "config": [EOS, TURN_END], "text": EOS}, [EOS, TURN_END]),
    "one alone": ({"generation": EOS, "config": EOS}, [EOS, TURN_END]),
    "in text_config": ({"text": [EOS, TURN_END]}, [EOS, TURN_END]),
    "nowhere": ({}, [EOS, TURN_END]),
    "nothing": ({"generation": None}, [EOS, TURN_END]),
    "another": ({"generation": [EOS, TURN]}, [EOS, TURN, TURN_END]),
    "in three places": ({"generation": TURN, "config": BEGIN, "text": EOS}, [EOS, TURN, TURN_END, BEGIN]),
}


@pytest.mark.parametrize("case", CASES)
def test_names_and_files_together_say_it(medgemma_source: Path, copied: Copy, case: str) -> None:
    stated, expected = CASES[case]
    settings = open_source(stating(copied(medgemma_source), **stated)).settings
    assert settings["stop_token_ids"] == expected
    tokens = {token["id"]: token["content"] for token in read_json(medgemma_source / "tokenizer.json")["added_tokens"]}
    assert settings["stop_tokens"] == [tokens[index] for index in expected]


@pytest.mark.parametrize("place", ["generation", "config", "text"])
@pytest.mark.parametrize("index", [TEXT, 99_999])
def test_a_text_ends_no_answer(medgemma_source: Path, copied: Copy, tmp_path: Path, place: str, index: int) -> None:
    folder = stating(copied(medgemma_source), **{place: [EOS, index]})
    with pytest.raises(CheckpointError, match=f"eos_token_id {index} is no control token"):
        artifact.export(folder, tmp_path / "a", levels=["Q4_0"], prove=False)


def ends_in_llama_cpp(path: Path) -> tuple[set[int], set[int]]:
    """The ids at which llama.cpp ends an answer, and those that are control tokens to it."""
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    vocabulary = lib.llama_model_get_vocab(model)
    ids = range(lib.llama_vocab_n_tokens(vocabulary))
    try:
        ends = {i for i in ids if lib.llama_vocab_is_eog(vocabulary, i)}
        return ends, {i for i in ids if lib.llama_vocab_is_control(vocabulary, i)}
    finally:
        lib.llama_model_free(model)


@pytest.mark.parametrize("case", ["one alone", "in three places"])
def test_llama_cpp_and_ollama_end_at_the_same(medgemma_source: Path, copied: Copy, tmp_path: Path, case: str) -> None:
    stated, expected = CASES[case]
    found = artifact.export(stating(copied(medgemma_source), **stated), tmp_path / "a", levels=["Q4_0"], prove=False)
    (decoder,) = (tmp_path / "a").glob("medgemma-*.gguf")
    assert ends_in_llama_cpp(decoder)[0] == set(expected) == set(found.manifest.settings["stop_token_ids"])
    lines = (tmp_path / "a" / "Modelfile.Q4_0").read_text().splitlines()
    stops = [line for line in lines if line.startswith("PARAMETER stop")]
    assert stops == [f'PARAMETER stop "{token}"' for token in found.manifest.settings["stop_tokens"]]
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "a", local_files_only=True)
    assert sorted(generation.eos_token_id) == expected
    assert generation.pad_token_id == read_json(medgemma_source / "generation_config.json").get("pad_token_id")
    assert adopt(decoder, tmp_path / "b").manifest.settings["stop_token_ids"] == expected
    for fewer in (expected[1:], [*expected, 7]):
        edit_json(tmp_path / "a" / "edgekit.json", {"settings.stop_token_ids": fewer, "foreign": True})
        with pytest.raises(ArtifactError, match=r"settings\.stop_token_ids is"):
            open_model(tmp_path / "a")


def test_a_gguf_file_has_room_for_two_more(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = stating(copied(medgemma_source), generation=[EOS, TURN, BEGIN, BEGIN + 1])
    with pytest.raises(CheckpointError, match="answers end at"):
        artifact.export(folder, tmp_path / "a", levels=["Q4_0"], prove=False)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_marker_that_is_not_called_special_is_one(
    medgemma_source: Path, copied: Copy, tmp_path: Path, rebuilt: bool
) -> None:
    """As fine-tuning scripts leave it: in GGUF, it must still be a control token."""
    folder = copied(medgemma_source)
    tokens = read_json(folder / "tokenizer.json")["added_tokens"]
    places = [i for i, token in enumerate(tokens) if token["content"] == "<end_of_turn>"]
    edit_json(folder / "tokenizer.json", {f"added_tokens.{i}.special": False for i in places})
    edit_json(folder / "tokenizer_config.json", {f"added_tokens_decoder.{TURN_END}.special": False})
    if rebuilt:
        (folder / "tokenizer.model").unlink()
    artifact.export(folder, tmp_path / "a", levels=["Q4_0"], prove=False)
    (decoder,) = (tmp_path / "a").glob("medgemma-*.gguf")
    ends, control = ends_in_llama_cpp(decoder)
    assert ends == {EOS, TURN_END}
    assert {EOS, TURN, TURN_END} <= control


# ---------------------------------------------------------------- files of others


def retyped(source: Path, target: Path, kinds: dict[str, int]) -> Path:
    """A GGUF file whose tokens have other types."""
    import gguf

    fields = gguf.GGUFReader(source).fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    new = [kinds.get(token, kind) for token, kind in zip(tokens, types, strict=True)]
    return rewrite(source, target, fields={"tokenizer.ggml.token_type": new})


@pytest.mark.parametrize("kind", [1, 4])  # normal, user-defined
def test_a_mistyped_marker_is_mended_by_its_name(medgemma_artifact: Path, tmp_path: Path, kind: int) -> None:
    (decoder,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    wrong = retyped(decoder, tmp_path / "wrong.gguf", {"<start_of_turn>": kind, "<end_of_turn>": kind})
    right, found = adopt(decoder, tmp_path / "right"), adopt(wrong, tmp_path / "a")
    assert right.mended is None
    assert found.mended is not None
    assert "<start_of_turn>, <end_of_turn>" in found.mended
    assert found.mended in found.manifest.modified
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "right" / "tokenizer.json").read_bytes()
    assert found.manifest.settings == right.manifest.settings


def test_a_file_whose_answers_end_at_text_is_refused(medgemma_artifact: Path, tmp_path: Path) -> None:
    (decoder,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    other = rewrite(decoder, tmp_path / "other.gguf", fields={"tokenizer.ggml.eos_token_id": TEXT})
    with pytest.raises(ArtifactError, match=f"eos_token_id is {TEXT}, which is no control token"):
        adopt(other, tmp_path / "a")


def test_a_vocabulary_without_turn_markers_is_refused(medgemma_artifact: Path, tmp_path: Path) -> None:
    import gguf

    (decoder,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    tokens = gguf.GGUFReader(decoder).fields["tokenizer.ggml.tokens"].contents()
    renamed = ["<turn>" if token == "<start_of_turn>" else token for token in tokens]
    other = rewrite(decoder, tmp_path / "other.gguf", fields={"tokenizer.ggml.tokens": renamed})
    with pytest.raises(ArtifactError, match="<start_of_turn> is no token of its vocabulary"):
        adopt(other, tmp_path / "a")
    assert not (tmp_path / "a").exists()
