"""Models that edgekit opens, against transformers' own generation and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_peer import Peer

from edgekit.errors import InputError, UsageError
from edgekit.inputs import phantoms
from edgekit.inputs.image import content_hash, to_pixels
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.base import Embeddings, Generation
from edgekit.runtime.chat_model import ChatModel

QUESTION = "What is the main finding in this image?"


@pytest.fixture(scope="module")
def model(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("runtime") / "artifact"
    artifact.export(medgemma_source, folder, levels=["BF16"], prove=False)
    opened = open_model(folder, "BF16")
    assert isinstance(opened, ChatModel)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def peer(medgemma_source: Path) -> Peer:
    return Peer(medgemma_source)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [phantom.image for phantom in phantoms.generate(616, 4)]


def answer(model: ChatModel, messages: list[Message], budget: int = 24) -> tuple[list[str], Generation]:
    *pieces, last = model.generate(messages, max_tokens=budget)
    assert isinstance(last, Generation)
    return [piece for piece in pieces if isinstance(piece, str)], last


def test_answers_equal_transformers_generate(model: ChatModel, peer: Peer, images: list[Any]) -> None:
    for image in images:
        messages = [Message("user", Image(image), QUESTION)]
        expected, prompt_tokens = peer.answer(messages, 24)
        pieces, found = answer(model, messages)
        assert found.text == expected
        assert "".join(pieces) == found.text
        assert found.prompt_tokens == prompt_tokens


def test_scores_equal_transformers(model: ChatModel, peer: Peer, images: list[Any]) -> None:
    messages = [Message("user", Image(images[0]), QUESTION)]
    options = ["nodule", "pleural effusion", "no finding"]
    assert np.allclose(model.score(messages, options), peer.score(messages, options), atol=0.05)


def conversation(images: list[Any]) -> list[Message]:
    """Three images: one, then two in one turn."""
    return [
        Message("system", "You look at phantoms."),
        Message("user", Image(images[0]), QUESTION),
        Message("assistant", "A nodule."),
        Message("user", Image(images[1]), Image(images[2]), "And here?"),
    ]


def test_two_images_and_a_conversation(model: ChatModel, peer: Peer, images: list[Any]) -> None:
    messages = conversation(images)
    (found,) = model.decoder.prefill(model.segments(messages))
    expected = peer.logits(messages)[-1]
    assert np.abs(expected - found).max() < 0.1
    swapped = conversation([images[0], images[2], images[1]])
    assert np.abs(peer.logits(swapped)[-1] - found).max() > 0.2, "the order of the two images shows in the logits"


def test_each_image_stands_under_the_hash_of_its_own_pixels(model: ChatModel, images: list[Any]) -> None:
    assert model.preprocessing is not None
    embedded = [segment for segment in model.segments(conversation(images)) if isinstance(segment, Embeddings)]
    assert len(embedded) == 3
    for segment, image in zip(embedded, images, strict=False):
        (pixels,) = to_pixels([image], model.preprocessing)
        assert segment.content_hash == content_hash(pixels)
        assert np.array_equal(segment.array, model.encode_images([image])[0])


def test_the_same_image_is_encoded_once(model: ChatModel, images: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    right = model.vision.encode
    monkeypatch.setattr(model.vision, "encode", lambda batch: calls.append(len(batch)) or right(batch))
    fresh = images[3][:-3]
    for question in ("What is this?", "Is it severe?", QUESTION):
        answer(model, [Message("user", Image(fresh), question)], budget=2)
    assert calls == [1]


def test_a_cut_answer_says_so(model: ChatModel) -> None:
    _, cut = answer(model, [Message("user", "Describe this image in one sentence.")], budget=1)
    assert cut.truncated
    assert any("cut off" in warning for warning in cut.warnings)
    assert any("reference model" in warning for warning in cut.warnings)


def test_what_does_not_fit_is_refused(model: ChatModel) -> None:
    with pytest.raises(InputError, match="tokens"):
        answer(model, [Message("user", passage() * 4)])
    with pytest.raises(InputError, match="budget"):
        answer(model, [Message("user", "hello")], budget=0)
    with pytest.raises(InputError, match="empty option"):
        model.score([Message("user", "hello")], [""])
    for token in ("<image_soft_token>", "<end_of_turn>", "<pad>"):
        with pytest.raises(InputError, match=token):
            model.score([Message("user", "hello")], [token])
        with pytest.raises(InputError, match=token):
            answer(model, [Message("user", f"hello {token}")])
    with pytest.raises(UsageError, match="cannot embed_image"):
        model.embed_image([])


def test_the_model_works_on_after_an_error(model: ChatModel) -> None:
    with pytest.raises(InputError):
        answer(model, [Message("user", passage() * 4)])
    _, found = answer(model, [Message("user", "hello")], budget=3)
    assert found.output_tokens >= 1
