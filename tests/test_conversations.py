"""What a conversation costs: nothing is computed again that stands there, and nothing else is taken for it.

On both decoders, with the reference model, whose window of 64 tokens these prompts go far beyond.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from edgekit.errors import SnapshotError
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.answer import Piece
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.model import Generation

LEVELS = ("BF16", "fp32")  # GGUF, ONNX


@pytest.fixture(scope="module", params=LEVELS)
def model(
    request: pytest.FixtureRequest, medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("conversations") / "artifact"
    artifact.export(medgemma_source, folder, levels=[request.param], prove=False)
    opened = open_model(folder)
    assert isinstance(opened, ChatModel)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def image() -> Any:
    return next(iter(phantoms.generate(717, 1))).image


def asked(model: ChatModel, messages: list[Message], **options: Any) -> Generation:
    *pieces, last = model.generate(messages, GenerationOptions(**options))
    assert isinstance(last, Generation)
    assert "".join(piece for piece in pieces if isinstance(piece, Piece)) == last.text
    return last


def forget(model: ChatModel) -> None:
    model.decoder.truncate(0)  # type: ignore[attr-defined]


def question(image: Any, words: int = 0) -> Message:
    return Message("user", passage()[:words], Image(image), "What is the main finding in this image?")


def test_a_follow_up_computes_only_what_is_new_and_answers_as_if_all_were(model: ChatModel, image: Any) -> None:
    turns = [question(image, 600)]
    first = asked(model, turns, max_tokens=16)
    follow_up = [*turns, Message("assistant", first.text), Message("user", "Is it severe?")]
    second = asked(model, follow_up, max_tokens=16)
    assert first.prompt_tokens > 128
    assert second.cached_tokens >= first.prompt_tokens
    forget(model)
    again = asked(model, follow_up, max_tokens=16)
    assert again.cached_tokens == 0
    assert again.text == second.text


def test_another_image_or_text_before_it_is_computed_anew(model: ChatModel, image: Any) -> None:
    other = np.asarray(image)[:, ::-1]
    asked(model, [question(image)], max_tokens=4)
    mirrored = asked(model, [question(other)], max_tokens=4)
    assert mirrored.cached_tokens < 10  # what stands before the image
    forget(model)
    assert asked(model, [question(other)], max_tokens=4).text == mirrored.text


def test_an_image_is_kept_or_cut_as_a_whole(model: ChatModel, image: Any) -> None:
    """The same beginning, and a text in place of the image's second half, which is no prompt; so none is cut within."""
    asked(model, [question(image)], max_tokens=2)
    told = asked(model, [Message("user", "What is a cough?")], max_tokens=4)
    forget(model)
    assert asked(model, [Message("user", "What is a cough?")], max_tokens=4).text == told.text


def test_who_uses_the_decoder_meanwhile_leaves_nothing_to_be_mistaken(model: ChatModel, image: Any) -> None:
    asked(model, [question(image)], max_tokens=2)
    other = model.segments([Message("user", "What is pneumonia? " * 30)])
    list(model.decoder.prefill(other))
    again = asked(model, [question(image)], max_tokens=8)
    assert again.cached_tokens == 0
    forget(model)
    assert asked(model, [question(image)], max_tokens=8).text == again.text


def test_drafts_change_nothing(model: ChatModel, image: Any) -> None:
    """Beyond the window, behind an image, and where the answer repeats its context."""
    quoted = " ".join(passage().split()[:60])
    for turns in ([question(image, 500)], [Message("user", f"Repeat: {quoted} {quoted} {quoted}")]):
        forget(model)
        plain = asked(model, turns, max_tokens=80, lookup=False)
        forget(model)
        drafted = asked(model, turns, max_tokens=80)
        assert plain.drafted_tokens == 0
        assert drafted.text == plain.text
        assert drafted.output_tokens == plain.output_tokens


def test_drafts_are_taken_where_an_answer_repeats_itself(model: ChatModel) -> None:
    """By a bias, the model says the same two words again and again."""
    one, two = (model.tokenize(word)[0] for word in (" lung", " heart"))
    options: dict[str, Any] = {"max_tokens": 40, "logit_bias": {one: 100.0, two: 100.0}, "frequency_penalty": 2.0}
    drafted = asked(model, [Message("user", "Say it.")], **options)
    plain = asked(model, [Message("user", "Say it.")], lookup=False, **options)
    assert drafted.text == plain.text
    assert drafted.accepted_tokens > 10


def test_drawn_answers_have_their_seed_with_drafts_and_without(model: ChatModel, image: Any) -> None:
    drawn = asked(model, [question(image)], max_tokens=24, temperature=1.0, seed=5)
    assert drawn.seed == 5
    assert asked(model, [question(image)], max_tokens=24, temperature=1.0, seed=5, lookup=False).text == drawn.text
    several = [
        item
        for item in model.generate([question(image)], GenerationOptions(max_tokens=24, temperature=1.0, seed=4, n=2))
        if isinstance(item, Generation)
    ]
    assert [one.number for one in several] == [0, 1]
    assert several[1].text == drawn.text


def test_log_probabilities_are_the_scores_of_the_answer(model: ChatModel, image: Any) -> None:
    found = asked(model, [question(image)], max_tokens=6, top_logprobs=3)
    assert len(found.tokens) == found.output_tokens
    assert all(one.top[0].logprob >= one.logprob for one in found.tokens if one.logprob is not None)
    (scored,) = model.score([question(image)], [found.text])
    total = sum(one.logprob or 0 for one in found.tokens)
    assert model.tokenize(found.text) == [one.token for one in found.tokens]
    assert total == pytest.approx(float(scored), abs=0.05)


def test_a_stop_text_ends_the_answer_before_it(model: ChatModel, image: Any) -> None:
    whole = asked(model, [question(image)], max_tokens=16)
    middle = whole.text[len(whole.text) // 2 :]
    cut = asked(model, [question(image)], max_tokens=16, stop=(middle,))
    assert (cut.text, cut.stopped, cut.truncated) == (whole.text[: len(whole.text) // 2], "stop", False)


def test_what_is_cancelled_or_late_ends_and_the_model_goes_on(model: ChatModel, image: Any) -> None:
    whole = asked(model, [question(image)], max_tokens=8)
    cancelled = Event()
    cancelled.set()
    forget(model)
    ended = asked(model, [question(image, 3000)], max_tokens=8, cancelled=cancelled)
    assert (ended.stopped, ended.output_tokens, ended.truncated) == ("cancelled", 0, True)
    late = asked(model, [question(image)], max_tokens=8, deadline_s=0)
    assert late.stopped == "deadline"
    assert any("0 s were over" in warning for warning in late.warnings)
    assert asked(model, [question(image)], max_tokens=8).text == whole.text


def test_the_image_before_the_question_leaves_its_own_tokens_to_it(model: ChatModel, image: Any) -> None:
    turn = question(image)
    whole = asked(model, [turn], max_tokens=8)
    forget(model)
    held = model.prepare([Message("user", Image(image))])
    found = asked(model, [Message("user", Image(image), "What is the main finding in this image?")], max_tokens=8)
    assert held >= 16  # the image's tokens
    assert found.cached_tokens >= held
    assert found.text == whole.text


def test_a_saved_conversation_that_was_changed_or_is_anothers_is_refused(model: ChatModel, image: Any) -> None:
    turns = [question(image)]
    data = model.save([*turns, Message("assistant", asked(model, turns, max_tokens=4).text)])
    for place in (0, 40, 60, len(data) // 2, len(data) - 1):
        wrong = bytearray(data)
        wrong[place] ^= 1
        with pytest.raises(SnapshotError):
            model.load(bytes(wrong))
    right, model.made_by = model.made_by, "another encoder"
    with pytest.raises(SnapshotError):
        model.load(data)
    model.made_by = right
    model.load(data)
