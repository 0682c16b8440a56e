"""Labels: those that a model cannot tell apart are refused, what is cut is said, and a vector is computed once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import photo
from PIL import Image
from small_models import chat_model

from edgekit.cli import main
from edgekit.errors import EdgekitWarning, InputError, UsageError
from edgekit.families.siglip.text import encode_siglip, siglip_text
from edgekit.inputs.message import Image as Shown
from edgekit.inputs.message import Message
from edgekit.inputs.text import load_tokenizer
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.embedding_model import ContrastiveModel

LONG = " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def model(medsiglip_artifact: Path) -> Iterator[ContrastiveModel]:
    opened = open_model(medsiglip_artifact)
    assert isinstance(opened, ContrastiveModel)
    yield opened
    opened.close()


@pytest.fixture
def chat(medgemma_source: Path) -> Iterator[ChatModel]:
    with chat_model(medgemma_source) as opened:
        yield opened


@pytest.fixture
def counted(model: ContrastiveModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the real encoder of texts was given."""
    calls: list[int] = []
    right = model.text_encoder.encode

    def encode(batch: Any) -> Any:
        calls.append(len(batch))
        return right(batch)

    monkeypatch.setattr(model.text_encoder, "encode", encode)
    return calls


@pytest.mark.filterwarnings("ignore::edgekit.errors.EdgekitWarning")
@pytest.mark.parametrize(
    "labels",
    [
        ["nodule", "nodule"],
        ["nodule", "no finding", "Nodule."],
        ["X-ray", "xray"],
        [f"{LONG} without a nodule", f"{LONG} with a nodule"],
        [["nodule", "effusion"], ["effusion", "Nodule"]],
        [["nodule"], ["nodule", "nodule!"]],
    ],
)
def test_two_labels_that_are_one_to_the_model_are_named(model: ContrastiveModel, labels: Sequence[Any]) -> None:
    with pytest.raises(UsageError, match=rf"labels 1 and {len(labels)} are the same to the model") as caught:
        model.classify([photo(40, 40)], labels)
    texts = [label if isinstance(label, str) else label[0] for label in labels]
    assert all(repr(text)[:40] in caught.value.message for text in (texts[0], texts[-1]))


@pytest.mark.parametrize("text", ["", "   ", "!?", ".", "\u200b"])
@pytest.mark.parametrize("several", [False, True])
def test_a_label_of_which_nothing_is_read_is_refused(model: ContrastiveModel, text: str, several: bool) -> None:
    with pytest.raises(UsageError, match="holds nothing that the model reads"):
        model.classify([photo(40, 40)], ["nodule", ["effusion", text] if several else text])


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([], "no labels"),
        ("nodule", "labels: str"),
        (["nodule", None], "labels"),
        (["nodule", 5], "labels"),
        ([b"nodule"], "labels"),
        (["nodule", []], "a label without a prompt"),
        ([["nodule", 3]], "labels: 3"),
    ],
)
def test_what_is_no_list_of_labels(model: ContrastiveModel, chat: ChatModel, labels: Any, match: str) -> None:
    for opened in (model, chat):
        with pytest.raises(UsageError, match=match):
            opened.classify([photo(40, 40)], labels)


@pytest.mark.parametrize("labels", [["a nodule", "a nodule"], ["a nodule", " a nodule "], ["a nodule", ""], [" "]])
def test_a_chat_model_does_not_choose_between_equals(chat: ChatModel, labels: list[str]) -> None:
    with pytest.raises(UsageError, match=r"are the same to the model|holds nothing"):
        chat.classify([photo(40, 40)], labels)
    assert chat.classify([photo(40, 40)], ["a nodule", "an effusion"]).sum() == pytest.approx(1)
    assert chat.classify([], ["a nodule", "an effusion"]).shape == (0, 2)


def test_a_chat_model_reads_no_label_in_part(chat: ChatModel) -> None:
    with pytest.raises(UsageError, match="a label of 2 texts"):
        chat.classify([photo(40, 40)], [["a nodule", "a mass"], "an effusion"])
    one = chat.classify([photo(40, 40)], [["a nodule"], "an effusion"])
    assert np.array_equal(one, chat.classify([photo(40, 40)], ["a nodule", "an effusion"]))


@given(
    st.lists(
        st.text(alphabet="ab c.AB-\u00e9", max_size=6) | st.integers(0, 2).map(lambda n: LONG + " end" * n),
        min_size=1,
        max_size=4,
    )
)
def test_labels_are_refused_exactly_where_their_ids_say_so(
    model: ContrastiveModel, medsiglip_source: Path, labels: list[str]
) -> None:
    tokenizer = load_tokenizer(medsiglip_source / "tokenizer.json") if not _LOADED else _LOADED[0]
    _LOADED[:] = [tokenizer]
    rows = {row.tobytes() for row in encode_siglip(tokenizer, labels, 64, 1)}
    right = len(rows) == len(labels) and all(siglip_text(label) for label in labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if right:
            assert model.classify([], labels).shape == (0, len(labels))
        else:
            with pytest.raises(UsageError, match="label"):
                model.classify([], labels)


_LOADED: list[Any] = []


def test_a_text_that_is_cut_is_said(model: ContrastiveModel) -> None:
    with pytest.warns(
        EdgekitWarning, match=r"a text of \d+ tokens is cut to the 64 that the model reads: 'word0 word1"
    ):
        model.classify([photo(40, 40)], [LONG, "nodule"])
    with pytest.warns(EdgekitWarning, match="is cut to the 64"):
        model.embed_text(["nodule", LONG])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.classify([photo(80, 80)], ["nodule", "word " * 10])  # a smaller picture is said, too


def test_vectors_of_labels_are_kept_and_equal_to_the_bit(model: ContrastiveModel, counted: list[int]) -> None:
    pictures = [photo(40, 40 + seed, seed) for seed in range(6)]
    labels: list[Any] = [f"finding {number}" for number in range(8)] + [["effusion", "an effusion", "fluid"]]
    alone = np.concatenate([model.classify([picture], labels) for picture in pictures])
    assert sum(counted) == 11, "each text once, not for every image"
    model.classify(pictures[:1], [*labels[:3:-1], "another"])
    assert sum(counted) == 12
    again = np.concatenate([model.classify([picture], labels) for picture in pictures])
    assert sum(counted) == 12
    assert np.array_equal(alone, again)


def test_kept_vectors_are_those_of_a_fresh_model(
    model: ContrastiveModel, medsiglip_artifact: Path, medsiglip_source: Path
) -> None:
    labels = ["no finding", "nodule", ["effusion", "an effusion"]]
    model.classify([photo(40, 40)], ["something else", "nodule"])
    with open_model(medsiglip_artifact) as fresh:
        expected = fresh.classify([photo(50, 40)], labels)
        vectors = fresh.embed_text(["no finding"])
    assert np.array_equal(model.classify([photo(50, 40)], labels), expected)
    cosine = model.embed_image([photo(50, 40)])[0] @ vectors[0]
    logit = cosine * np.exp(model.settings.logit_scale) + model.settings.logit_bias
    assert expected[0, 0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_nothing_has_no_vectors(model: ContrastiveModel) -> None:
    width = model.settings.hidden
    assert model.embed_text([]).shape == model.embed_image([]).shape == (0, width)


def test_what_is_kept_is_bounded(model: ContrastiveModel, counted: list[int]) -> None:
    model.classify([], [f"label number {number}" for number in range(20)])
    held = sum(vector.nbytes for vector in model.label_vectors.values())
    assert 0 < held == model.label_vectors.held_bytes <= model.label_vectors.most_bytes
    model.label_vectors.most_bytes = 5 * model.settings.hidden * 4
    model.classify([], ["one more"])
    assert len(model.label_vectors) == 5


def test_classify_tells_in_text_and_json(
    medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(60, 60)).save(tmp_path / name)
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    command = ["classify", str(medsiglip_artifact), *files, "--label", "nodule"]
    assert main([*command, "--label", LONG]) == 0
    assert capsys.readouterr().err.count("is cut to the 64 that the model reads") == 1
    assert main([*command, "--label", LONG, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sum("is cut to the 64" in said for said in row["warnings"]) for row in rows] == [1, 1]
    assert all(any("not MedSigLIP" in said for said in row["warnings"]) for row in rows)
    assert main([*command, "--label", "Nodule!"]) == 2
    assert "would score alike: 'nodule' and 'Nodule!'" in capsys.readouterr().err


def test_an_image_of_a_message_is_an_image(model: ContrastiveModel, chat: ChatModel, tmp_path: Path) -> None:
    """With its range, and with what is to be said of it."""
    wide = (photo(80, 80)[..., 0].astype(np.uint16) * 16).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    stretched = Image.fromarray(np.rint(wide / 4080 * 255).astype(np.uint8))
    labels = ["nodule", "no finding"]
    for one in (model, chat):
        asked = one.classify([Shown(tmp_path / "a.png", range=(0, 4080))], labels)
        assert np.allclose(asked, one.classify([stretched], labels), atol=1e-6)
    with pytest.warns(EdgekitWarning, match="WRONG CONTRAST"):
        model.embed_image([Shown(tmp_path / "a.png")])


@pytest.mark.parametrize("options", [[], ["yes", "yes"]])
def test_options_that_say_nothing_are_refused(chat: ChatModel, options: list[str]) -> None:
    with pytest.raises(InputError, match=f"{len(options)} options"):
        chat.score([Message("user", "Is there a nodule?")], options)


@pytest.mark.parametrize("parts", [(), ("",), (" \n",)])
def test_an_empty_question_is_not_answered(chat: ChatModel, parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="an empty question"):
        next(chat.generate([Message("user", *parts)]))
