"""Several answers at once: each is what it is alone, whoever reads how much of which, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import UsageError
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.model import Generation
from edgekit.runtime.use import Use

SLOTS = 3
TOKENS = GenerationOptions(max_tokens=20, lookup=False)


@pytest.fixture(scope="module", params=["BF16", pytest.param("fp32", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slots") / "artifact"
    artifact.export(medgemma_source, folder, levels=[request.param], prove=False)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[ChatModel]:
    opened = open_model(folder, use=Use(slots=SLOTS))
    assert isinstance(opened, ChatModel)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def questions() -> list[list[Message]]:
    """Short and long, with images and without."""
    image, other = (phantom.image for phantom in phantoms.generate(818, 2))
    return [
        [Message("user", Image(image), "What is the main finding in this image?")],
        [Message("user", passage()[:1500], "What is this about?")],
        [Message("user", Image(image), passage()[:300], Image(other), "What differs?")],
        [Message("user", "What is a cough?")],
    ]


@pytest.fixture(scope="module")
def alone(folder: Path, questions: list[list[Message]]) -> list[str]:
    """Each answer by a model that gives one at a time."""
    with open_model(folder) as model:
        return [last(model, question).text for question in questions]


def last(model: Any, question: list[Message], options: GenerationOptions = TOKENS) -> Generation:
    *_, found = model.generate(question, options)
    assert isinstance(found, Generation)
    return found


def test_answers_read_by_turns_in_one_thread(
    model: ChatModel, questions: list[list[Message]], alone: list[str]
) -> None:
    streams = dict(enumerate(model.generate(question, TOKENS) for question in questions[:SLOTS]))
    texts = ["" for _ in streams]
    while streams:
        for number, stream in list(streams.items()):
            item = next(stream)
            if isinstance(item, Generation):
                assert item.text == texts[number] == alone[number]
                del streams[number]
            else:
                texts[number] += item


def test_answers_read_in_threads_more_than_there_are_slots(
    model: ChatModel, questions: list[list[Message]], alone: list[str]
) -> None:
    for _ in range(2):
        with ThreadPoolExecutor(2 * len(questions)) as pool:
            found = list(pool.map(lambda number: last(model, questions[number]).text, [*range(len(questions))] * 2))
        assert found == alone * 2


def test_no_more_than_there_are_slots_in_one_thread(model: ChatModel, questions: list[list[Message]]) -> None:
    streams = [model.generate(questions[3], TOKENS) for _ in range(SLOTS)]
    for stream in streams:
        next(stream)
    with pytest.raises(UsageError, match="still under way in this thread"):
        next(model.generate(questions[3], TOKENS))
    with pytest.raises(UsageError, match="scores cannot begin"):
        model.score(questions[3], ["yes", "no"])
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    assert last(model, questions[3]).output_tokens


def test_a_closed_answer_leaves_the_others_as_they_are(
    model: ChatModel, questions: list[list[Message]], alone: list[str]
) -> None:
    first, second = (model.generate(questions[number], TOKENS) for number in (0, 1))
    text = str(next(first))
    next(second)
    second.close()  # type: ignore[attr-defined]
    *pieces, whole = first
    assert text + "".join(map(str, pieces)) == whole.text == alone[0]  # type: ignore[union-attr]


class Broken(threading.Event):
    """A wish to end that fails when it is looked at for the third time."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        if self.looks > 2:
            raise ZeroDivisionError("its own")
        return False


def test_an_error_that_nobody_expected_ends_one_answer_for_its_own_reader(
    model: ChatModel, questions: list[list[Message]], alone: list[str]
) -> None:
    broken = model.generate(questions[1], GenerationOptions(max_tokens=20, lookup=False, cancelled=Broken()))
    next(broken)
    for number in (2, 0):  # they compute the broken one's steps, too
        assert last(model, questions[number]).text == alone[number]
    with pytest.raises(ZeroDivisionError, match="its own"):
        list(broken)
    assert last(model, questions[1]).text == alone[1]


@pytest.mark.parametrize("call", ["decode", "extend"])
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_within_a_step_leaves_no_answer_that_is_wrong(
    folder: Path,
    questions: list[list[Message]],
    alone: list[str],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    after: bool,
) -> None:
    """Wherever it comes: an answer that was beside it is the one it is alone, or is refused."""
    model = open_model(folder, use=Use(slots=SLOTS))
    assert isinstance(model, ChatModel)
    measured = replace(TOKENS, top_logprobs=0)
    expected = [token.logprob for token in last(model, questions[1], measured).tokens]
    model.decoder.truncate(0)  # type: ignore[attr-defined]
    one = model.generate(questions[1], measured)
    next(one)
    two = model.generate(questions[2], TOKENS)
    taken = getattr(model.decoder, call)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        found = taken(*args, **kwargs) if after else None
        if call == "extend" and after:
            list(found)
        raise KeyboardInterrupt

    monkeypatch.setattr(model.decoder, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(two)
    found: list[float | None] = []
    with suppress(UsageError):
        *_, done = one
        assert isinstance(done, Generation)
        found = [token.logprob for token in done.tokens]
    assert not found or found == pytest.approx(expected, abs=0.06)
    assert [last(model, question).text for question in questions[:SLOTS]] == alone[:SLOTS]
    model.close()


def test_a_conversation_survives_foreign_questions(model: ChatModel, questions: list[list[Message]]) -> None:
    """A client's own short requests go elsewhere."""
    turns = [Message("user", passage()[:2000], "What is this about?")]
    first = last(model, turns)
    for foreign in ("A title for this:", "Tags for this:", "What is a cough?", "Three words on it:"):
        last(model, [Message("user", foreign)])
    again = [*turns, Message("assistant", first.text), Message("user", "Why?")]
    assert last(model, again).cached_tokens >= first.prompt_tokens


def test_an_image_may_come_before_its_question_while_others_are_answered(
    model: ChatModel, questions: list[list[Message]], alone: list[str]
) -> None:
    stream = model.generate(questions[1], TOKENS)
    text = str(next(stream))
    (image,) = questions[0][0].images
    held = model.prepare([Message("user", Image(image))])
    assert last(model, questions[0]).cached_tokens >= held
    *pieces, whole = stream
    assert text + "".join(map(str, pieces)) == whole.text == alone[1]  # type: ignore[union-attr]


def test_closing_the_model_ends_all_answers(folder: Path, questions: list[list[Message]]) -> None:
    model = open_model(folder, use=Use(slots=SLOTS))
    begun, errors, finished = threading.Barrier(SLOTS + 1), [], []

    def read(number: int) -> None:
        stream = model.generate(questions[number], GenerationOptions(max_tokens=2000))
        next(stream)
        begun.wait(60)
        try:
            finished.append(list(stream))
        except UsageError as error:
            errors.append(error.message)

    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1, 3)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    model.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(errors) + len(finished) == SLOTS  # one whose last piece was there already has ended rightly
    assert errors
    assert all("closed" in error for error in errors)


def test_more_slots_than_memory_holds_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="10000 sequences"):
        open_model(folder, use=Use(slots=10_000))
    with pytest.raises(UsageError, match="sequences"):
        open_model(folder, use=Use(slots=0))
