"""Models that edgekit opens, against transformers' own generation and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision.model import open_full_precision
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.base import Generation
from edgekit.runtime.compose import ChatModel

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
def reference(medgemma_source: Path) -> ChatModel:
    opened = open_full_precision(medgemma_source)
    assert isinstance(opened, ChatModel)
    return opened


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [phantom.image for phantom in phantoms.generate(616, 4)]


def answer(model: ChatModel, messages: list[Message], budget: int = 24) -> tuple[list[str], Generation]:
    *pieces, last = model.generate(messages, max_tokens=budget)
    assert isinstance(last, Generation)
    return [piece for piece in pieces if isinstance(piece, str)], last


def test_answers_equal_transformers_generate(
    model: ChatModel, reference: ChatModel, medgemma_source: Path, images: list[Any]
) -> None:
    """Greedy decoding through Hugging Face's processor, cache and generate loop."""
    import torch

    from edgekit.families.source import open_source

    source = open_source(medgemma_source)
    for image in images:
        messages = [Message("user", Image(image), QUESTION)]
        made = hf_inputs.processed(source, messages)
        ids = torch.tensor([made["input_ids"]])
        with torch.inference_mode():
            out = reference.decoder.model.generate(  # type: ignore[attr-defined]
                input_ids=ids, pixel_values=torch.from_numpy(made["pixel_values"]),
                token_type_ids=torch.tensor([made["token_type_ids"]]), max_new_tokens=24, do_sample=False,
                eos_token_id=sorted(model.settings.stop_token_ids),
            )  # fmt: skip
        expected = reference.tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
        pieces, found = answer(model, messages)
        assert found.text == expected
        assert "".join(pieces) == found.text
        assert found.prompt_tokens == ids.shape[1]


def test_scores_equal_the_references(model: ChatModel, reference: ChatModel, images: list[Any]) -> None:
    messages = [Message("user", Image(images[0]), QUESTION)]
    options = ["nodule", "pleural effusion", "no finding"]
    assert np.allclose(model.score(messages, options), reference.score(messages, options), atol=0.05)


def test_two_images_and_a_conversation(model: ChatModel, reference: ChatModel, images: list[Any]) -> None:
    messages = [
        Message("system", "You look at phantoms."),
        Message("user", Image(images[0]), QUESTION),
        Message("assistant", "A nodule."),
        Message("user", Image(images[1]), Image(images[2]), "And here?"),
    ]
    expected = next(iter(reference.decoder.prefill(reference.segments(messages))))
    found = next(iter(model.decoder.prefill(model.segments(messages))))
    assert np.abs(expected - found).max() < 0.1


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
