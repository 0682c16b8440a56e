"""Vocabularies of GGUF files: from tokenizer.model, and rebuilt without it, against Hugging Face's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from material import edit_json, read_json

from edgekit import cli
from edgekit.errors import ArtifactError, CheckpointError, GateError
from edgekit.formats.gguf.library import tokenize
from edgekit.inputs.text import control_tokens, load_tokenizer
from edgekit.inputs.tokenizer_texts import COUNT, texts
from edgekit.prove import publish as artifact

Copy = Callable[[Path], Path]
TEXTS = (
    "The lungs are clear, the heart is not enlarged.",
    "  two  spaces\n\n\nand lines\t\t",
    "12.5 mg/kg \u00b5g \u2265 37 \u00b0C \U0001fac1 na\u00efve \u4e2d\u6587 \u0639\u0631\u0628\u064a",
    "<bos><start_of_turn>user\nWhat? <start_of_image><end_of_turn>\n<start_of_turn>model\n",
    "a\0b \ufffd \u200b\u2028",
)


@pytest.fixture
def without_model(medgemma_source: Path, copied: Copy) -> Path:
    """The reference checkpoint as transformers saves it: without tokenizer.model."""
    folder = copied(medgemma_source)
    (folder / "tokenizer.model").unlink()
    return folder


def exported(source: Path, at: Path) -> Path:
    """The Q8_0 decoder's file."""
    artifact.export(source, at, levels=["Q8_0"], prove=False)
    (path,) = at.glob("medgemma-*-Q8_0.gguf")
    return path


def entries(path: Path) -> list[tuple[bytes, float, int]]:
    """Token, score and type of every row, as the gguf package reads them."""
    fields = gguf.GGUFReader(path).fields
    columns = [fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")]
    tokens, scores, types = ([column.parts[i] for i in column.data] for column in columns)
    return [(bytes(t), float(s[0]), int(k[0])) for t, s, k in zip(tokens, scores, types, strict=True)]


def test_a_rebuilt_vocabulary_is_the_originals(without_model: Path, medgemma_source: Path, tmp_path: Path) -> None:
    """All but the scores, which tokenizer.json does not have; what they must achieve is the next test."""
    rebuilt = entries(exported(without_model, tmp_path / "a"))
    original = entries(exported(medgemma_source, tmp_path / "b"))
    assert [(token, kind) for token, _, kind in rebuilt] == [(token, kind) for token, _, kind in original]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_llama_cpp_tokenizes_as_the_checkpoint_does(
    medgemma_source: Path, without_model: Path, tmp_path: Path, rebuilt: bool
) -> None:
    path = exported(without_model if rebuilt else medgemma_source, tmp_path / "a")
    tokenizer = load_tokenizer(medgemma_source / "tokenizer.json")
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert tokenize(path, TEXTS) == expected


def test_rebuilding_is_announced(
    without_model: Path, medgemma_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--level", "Q8_0", "--no-prove", "--json")
    assert cli.main(["export", str(without_model), "--to", str(tmp_path / "a"), *options]) == 0
    assert "no tokenizer.model: the vocabulary is rebuilt" in capsys.readouterr().err
    assert cli.main(["export", str(medgemma_source), "--to", str(tmp_path / "b"), *options]) == 0
    assert "tokenizer.model" not in capsys.readouterr().err


def test_added_tokens_are_known_without_tokenizer_config(without_model: Path, tmp_path: Path) -> None:
    """transformers 5 writes them into tokenizer.json alone."""
    expected = entries(exported(without_model, tmp_path / "a"))
    edit_json(without_model / "tokenizer_config.json", {"added_tokens_decoder": ...})
    assert entries(exported(without_model, tmp_path / "b")) == expected


def test_merges_that_ids_do_not_tell_are_refused(without_model: Path, tmp_path: Path) -> None:
    """The same tokens, merged in the opposite order."""
    tokenizer = read_json(without_model / "tokenizer.json")
    tokenizer["model"]["merges"].reverse()
    (without_model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=rf"other ids for \d+ of {COUNT} texts(.|\n)*tokenizer.model"):
        exported(without_model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_one_pair_merged_in_another_order_is_noticed(without_model: Path, tmp_path: Path) -> None:
    """Two tokens that overlap in words of the passage exchange their ids, and nothing else changes."""
    tokenizer = read_json(without_model / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["th"], vocabulary["he"] = vocabulary["he"], vocabulary["th"]
    (without_model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="other ids"):
        exported(without_model, tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model.type": "Unigram"}, "tokenizer.json"),
        ({"model.type": "WordPiece"}, "tokenizer.json"),
        ({"model.byte_fallback": False}, "byte_fallback"),
        ({"added_tokens.0.content": "<nothing>"}, "tokenizer"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    without_model: Path, tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    edit_json(without_model / "tokenizer.json", changes)
    edit_json(without_model / "tokenizer_config.json", {"added_tokens_decoder": ...})
    with pytest.raises(CheckpointError, match=match):
        exported(without_model, tmp_path / "a")


def test_a_changed_tokenizer_is_read_again(without_model: Path, tmp_path: Path) -> None:
    """The vocabulary is worked out once for all levels, but never kept for another file of the same name."""
    exported(without_model, tmp_path / "a")
    edit_json(without_model / "tokenizer_config.json", {"added_tokens_decoder.2.content": "<start>"})
    with pytest.raises(CheckpointError, match="<bos>"):
        exported(without_model, tmp_path / "b")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("twice", [True, False])
def test_a_token_that_others_would_find_elsewhere_is_refused(
    medgemma_source: Path, copied: Copy, tmp_path: Path, flag: str, twice: bool
) -> None:
    """llama.cpp's vocabularies have no such flags, transformers' class reads them in another file; and a token so rare
    is in few texts."""
    folder = copied(medgemma_source)
    tokenizer, config = (read_json(folder / name) for name in ("tokenizer.json", "tokenizer_config.json"))
    index, names = tokenizer["model"]["vocab"]["Hypodense"], ("lstrip", "rstrip", "single_word")
    token = {"content": "Hypodense", "special": False, "normalized": False, **{name: name == flag for name in names}}
    tokenizer["added_tokens"] = sorted([*tokenizer["added_tokens"], {"id": index, **token}], key=lambda one: one["id"])
    config["added_tokens_decoder"][str(index)] = token if twice else {**token, flag: False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    said = rf"token {index}, 'Hypodense', is 'one wherever it stands'\nallowed: .*{flag}"
    read = rf"where 'Hypodense' is found in a text is \['{flag}'\] to edgekit, \[\] to transformers"
    with pytest.raises(GateError if twice else CheckpointError, match=said if twice else read):
        artifact.export(folder, tmp_path / "a", levels=["Q8_0"])


def test_a_file_that_is_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match=r"llama\.cpp cannot load it"):
        tokenize(tmp_path / "a.gguf", ["a"])


def test_the_texts_are_many_kinds_and_always_the_same(medgemma_source: Path) -> None:
    tokenizer = load_tokenizer(medgemma_source / "tokenizer.json")
    pieces, special = list(tokenizer.get_vocab()), list(control_tokens(tokenizer))
    made = texts(pieces, special)
    assert made == texts(pieces, special)
    assert len(made) == COUNT
    assert len(set(made)) > 0.9 * COUNT
    assert all(any(token in text for text in made) for token in special)
    used = {i for encoded in tokenizer.encode_batch(made, add_special_tokens=False) for i in encoded.ids}
    assert len(used) > 0.85 * tokenizer.get_vocab_size()
    for sign in ("\n\n", "   ", "\t", "\r\n", "mg/kg", "\u0301"):
        assert any(sign in text for text in made), sign
