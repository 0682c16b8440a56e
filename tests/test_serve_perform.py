"""What jobs do with an open model: the answers are those of the model itself, whatever is not a job is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from small_models import chat_model

import edgekit
from edgekit.errors import InputError, UsageError
from edgekit.inputs.message import Image, Message
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.serve.jobs import Event, Job
from edgekit.serve.perform import perform


@pytest.fixture
def model(medgemma_source: Path) -> ChatModel:
    return chat_model(medgemma_source)


def picture(format_: str = "PNG", size: int = 40) -> bytes:
    written = io.BytesIO()
    values = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    Pillow.fromarray(values).save(written, format_)
    return written.getvalue()


def done(model: Any, kind: Any, body: dict[str, Any], *images: bytes) -> list[Event]:
    """As it crosses a pipe: JSON both ways."""
    events = list(perform(model, Job(kind, json.loads(json.dumps(body)), images), Flag()))
    return [Event(event.kind, json.loads(json.dumps(event.body)), event.data) for event in events]


def question(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}]


def test_a_chat_is_the_models_own_answer(model: ChatModel) -> None:
    image = picture()
    *pieces, answer = done(
        model, "chat", {"messages": question("See", {"image": 0}), "options": {"max_tokens": 9}}, image
    )
    *_, expected = model.generate([Message("user", "See", Image(image))], max_tokens=9)
    assert "".join(piece.body["text"] for piece in pieces) == answer.body["text"] == expected.text  # type: ignore[union-attr]
    assert {piece.kind for piece in pieces} == {"piece"}
    assert answer.kind == "answer"
    assert answer.body["stopped"] == "budget"
    assert answer.body["prompt_tokens"] == expected.prompt_tokens  # type: ignore[union-attr]


def test_log_probabilities_come_with_their_pieces(model: ChatModel) -> None:
    options = {"max_tokens": 40, "top_logprobs": 2, "temperature": 1.5, "seed": 3}
    *pieces, answer = done(model, "chat", {"messages": question("a"), "options": options})
    streamed = [token for piece in pieces for token in piece.body.get("tokens", [])]
    assert streamed == answer.body["tokens"]
    assert len(streamed) == answer.body["output_tokens"]
    for token in streamed:
        assert len(token["top"]) == 2
        assert token["logprob"] <= 0
        assert "bytes" in token or token["text"] == model.pieces([token["token"]])[0].decode()


def test_a_text_is_continued_without_a_template(model: ChatModel) -> None:
    *pieces, answer = done(model, "complete", {"prompt": "The heart", "options": {"max_tokens": 5}})
    assert answer.body["prompt_tokens"] == 1 + len(model.tokenize("The heart"))
    *_, expected = model.complete("The heart", GenerationOptions(max_tokens=5))
    assert answer.body["text"] == "".join(piece.body["text"] for piece in pieces) == expected.text  # type: ignore[union-attr]
    with pytest.raises(InputError, match="control token <start_of_turn>"):
        done(model, "complete", {"prompt": "<start_of_turn>user"})
    with pytest.raises(InputError, match=r"a prompt of \d+ tokens"):
        done(model, "complete", {"prompt": "word " * 600})


def test_a_prepared_image_need_not_be_computed_again(model: ChatModel) -> None:
    image = picture()
    *_, held = done(model, "prepare", {"messages": question({"image": 0})}, image)
    *_, answer = done(model, "chat", {"messages": question({"image": 0}, "What?"), "options": {"max_tokens": 1}}, image)
    assert answer.body["cached_tokens"] == held.body["tokens"] > 4


def test_scores_and_labels_are_numbers(model: ChatModel) -> None:
    *_, scores = done(model, "score", {"messages": question("Is it?"), "answers": ["yes", "no"]})
    assert np.frombuffer(scores.data, "<f4") == pytest.approx(
        model.score([Message("user", "Is it?")], ["yes", "no"]), rel=1e-5
    )
    *_, found = done(model, "classify", {"labels": [["a"], ["b"]]}, picture(), picture("BMP"))
    assert found.body["shape"] == [2, 2]
    assert np.frombuffer(found.data, "<f4").reshape(2, 2).sum(axis=1) == pytest.approx(1)
    with pytest.raises(UsageError, match="compete"):
        done(model, "classify", {"labels": [["a"], ["b"]], "scores": "sigmoid"}, picture())


def test_embeddings_keep_the_order_of_their_inputs(medsiglip_artifact: Path) -> None:
    with edgekit.open(medsiglip_artifact) as model:
        image = picture("WEBP")
        inputs = [{"text": "nodule"}, {"image": 0}, {"text": "effusion"}]
        *_, found = done(model, "embed", {"inputs": inputs}, image)
        rows = np.frombuffer(found.data, "<f4").reshape(found.body["shape"])
        assert rows[[0, 2]] == pytest.approx(model.embed_text(["nodule", "effusion"]), abs=1e-6)
        assert rows[1:2] == pytest.approx(model.embed_image([image]), abs=1e-6)
        assert found.body["tokens"] > 2

        *told, cut = done(model, "embed", {"inputs": [{"text": "word " * 500}]})
        assert {event.kind for event in told} == {"warning"}
        assert "is cut to" in told[-1].body["text"]
        assert cut.body["shape"][0] == 1

        *_, each = done(model, "classify", {"labels": [["nodule", "a nodule"], ["effusion"]]}, image)
        *_, shares = done(model, "classify", {"labels": [["nodule"], ["effusion"]], "scores": "softmax"}, image)
        assert np.frombuffer(each.data, "<f4") == pytest.approx(
            model.classify([image], [["nodule", "a nodule"], ["effusion"]])[0], abs=1e-6
        )
        assert np.frombuffer(shares.data, "<f4").sum() == pytest.approx(1)
        with pytest.raises(UsageError, match="gives no tokens"):
            done(model, "tokenize", {"text": "nodule"})


def test_vectors_and_scores_say_of_which_model_they_are(model: ChatModel, medsiglip_artifact: Path) -> None:
    with edgekit.open(medsiglip_artifact) as encoders:
        assert any("stand-in" in text for text in encoders.warnings)
        asked = {"embed": {"inputs": [{"text": "nodule"}]}, "classify": {"labels": [["nodule"], ["effusion"]]}}
        for kind, body in asked.items():
            *told, _ = done(encoders, kind, body, picture(size=448))
            assert [event.body["text"] for event in told] == list(encoders.warnings)
    model.warnings = ("a stand-in",)
    scored: dict[str, Any] = {"messages": question("a"), "answers": ["b"]}
    for kind, body in (("score", scored), ("prepare", {"messages": question("a")})):
        assert [event.kind for event in done(model, kind, body)] == ["warning", "result"]
    assert [event.kind for event in done(model, "tokenize", {"text": "a"})] == ["result"]


def test_an_image_is_looked_at_before_it_is_compared_with_labels(medsiglip_artifact: Path) -> None:
    blank = io.BytesIO()
    Pillow.new("L", (64, 64)).save(blank, "PNG")
    shown = {"messages": question({"image": 0})}
    with edgekit.open(medsiglip_artifact) as model:
        *told, result = done(model, "prepare", shown, blank.getvalue())
        assert "nearly constant" in told[-1].body["text"]
        assert result.body == {"tokens": 0}
        with pytest.raises(InputError, match="truncated"):
            done(model, "prepare", shown, picture()[:-500])


def test_tokens_there_and_back(model: ChatModel) -> None:
    text = "No effusion. \u00e4\U0001f600"
    (made,) = done(model, "tokenize", {"text": text})
    assert len(made.body["pieces"]) == len(made.body["tokens"])
    (back,) = done(model, "detokenize", {"tokens": made.body["tokens"]})
    assert back.body["text"] == text
    for wrong in ([-1], [1 << 40], [True], ["a"], [2111111]):
        with pytest.raises(InputError):
            done(model, "detokenize", {"tokens": wrong})


@pytest.mark.parametrize("format_", ["GIF", "PPM", "ICO", "SGI", "TGA", "JPEG2000", "PDF"])
def test_other_formats_are_refused_before_they_are_decoded(model: ChatModel, format_: str) -> None:
    with pytest.raises(InputError, match="image 2 is in no format"):
        done(model, "chat", {"messages": question({"image": 0}, {"image": 1})}, picture(), picture(format_, 64))


def test_five_formats_are_taken(model: ChatModel) -> None:
    images = [picture(format_) for format_ in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")]
    for image in images:
        *_, answer = done(model, "chat", {"messages": question({"image": 0}), "options": {"max_tokens": 1}}, image)
        assert answer.body["output_tokens"] == 1


def test_a_cancelled_job_ends_as_it_is(model: ChatModel) -> None:
    cancelled = Flag()
    events = perform(model, Job("chat", {"messages": question("a"), "options": {"max_tokens": 400}}), cancelled)
    next(events)
    cancelled.set()
    *_, answer = events
    assert answer.body["stopped"] == "cancelled"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("sing", {}),
        ("chat", {}),
        ("chat", {"messages": "a"}),
        ("chat", {"messages": [{"role": "tool", "parts": []}]}),
        ("chat", {"messages": [{"role": ["user"], "parts": [{"text": "a"}]}]}),
        ("chat", {"messages": question({"image": 0})}),
        ("chat", {"messages": question({"image": True})}),
        ("chat", {"messages": question({"text": 3})}),
        ("chat", {"messages": question("a"), "options": {"cancelled": True}}),
        ("chat", {"messages": question("a"), "options": {"thinking": 1}}),
        ("chat", {"messages": question("a"), "options": {"stop": "a"}}),
        ("chat", {"messages": question("a"), "options": {"logit_bias": {"-1": 1}}}),
        ("chat", {"messages": question("a"), "options": {"constraint": {"lark": "start: A", "regex": "a"}}}),
        ("chat", {"messages": question("a"), "options": {"constraint": {"choice": "ab"}}}),
        ("complete", {"prompt": ["a"]}),
        ("complete", {"prompt": "a", "options": {"thinking": True}}),
        ("score", {"messages": question("a"), "answers": [1]}),
        ("classify", {"labels": ["a"]}),
        ("classify", {"labels": [["a"]]}),
        ("embed", {"inputs": []}),
        ("tokenize", {"text": None}),
    ],
)
def test_what_is_no_job_is_refused(model: ChatModel, kind: str, body: dict[str, Any]) -> None:
    with pytest.raises((InputError, UsageError)):
        done(model, kind, body)


def test_constraints_hold(model: ChatModel) -> None:
    for constraint, allowed in (({"choice": ["yes", "no"]}, ("yes", "no")), ({"regex": "[ab]c"}, ("ac", "bc"))):
        body = {"messages": question("a"), "options": {"constraint": constraint}}
        assert done(model, "chat", body)[-1].body["text"] in allowed


class Cancelling:
    """A part of a model, whose third call is the one during which its client leaves."""

    def __init__(self, part: Any, cancelled: Flag) -> None:
        self.part, self.cancelled, self.calls, self.most = part, cancelled, 0, 0

    def encode(self, given: Any) -> Any:
        self.calls, self.most = self.calls + 1, max(self.most, len(given))
        if self.calls == 3:
            self.cancelled.set()
        return self.part.encode(given)

    def close(self) -> None:
        self.part.close()


MANY = [f"finding {number}" for number in range(500)]


@pytest.mark.parametrize("part", ["text_encoder", "image_encoder"])
@pytest.mark.parametrize("kind", ["classify", "embed"])
def test_what_nobody_waits_for_ends_at_its_next_step(medsiglip_artifact: Path, kind: Any, part: str) -> None:
    images = tuple(picture(size=size) for size in range(20, 36))
    inputs = [{"text": text} for text in MANY] if part == "text_encoder" else [{"image": i} for i in range(16)]
    labels = [[text] for text in (MANY if part == "text_encoder" else MANY[:2])]
    body = {"inputs": inputs} if kind == "embed" else {"labels": labels, "scores": None}
    cancelled = Flag()
    with edgekit.open(medsiglip_artifact) as model:
        watched = Cancelling(getattr(model, part), cancelled)
        setattr(model, part, watched)
        with pytest.raises(UsageError, match="cancelled"):
            list(perform(model, Job(kind, body, images), cancelled))
        assert watched.calls == 3
        assert watched.most <= 32, "a request of 2,048 texts must not take the memory of all at once"
        assert list(perform(model, Job("embed", {"inputs": [{"text": "a cough"}]}), Flag())), "the next one is done"


def test_scores_of_a_chat_that_nobody_waits_for_end(model: ChatModel) -> None:
    cancelled = Flag()
    cancelled.set()
    body = {"messages": question("See"), "answers": ["yes", "no"]}
    with pytest.raises(UsageError, match="cancelled"):
        list(perform(model, Job("score", body), cancelled))
    assert list(perform(model, Job("score", body), Flag()))
