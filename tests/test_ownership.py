"""One model, many callers: nobody's answer is written into another's, nothing hangs, and nothing is freed in use."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import photo
from small_models import HIDDEN, IMAGE_TOKENS, SPEC, chat_model

from edgekit.errors import UsageError
from edgekit.inputs.message import Image, Message
from edgekit.runtime import open_model
from edgekit.runtime.base import Float, Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.embedding_model import ContrastiveModel
from edgekit.runtime.model import Generation
from edgekit.runtime.opening import prepare
from edgekit.runtime.owned_parts import OwnedEncoder

QUESTIONS = ("What is the main finding in this image?", "Is there a nodule?", "Describe this image.")


def asked(question: str, seed: int = 0) -> list[Message]:
    return [Message("user", Image(photo(40, 40, seed)), question)]


def answered(model: ChatModel, number: int = 0, tokens: int = 12) -> str:
    """A whole answer."""
    *_, last = model.generate(asked(QUESTIONS[number], number), max_tokens=tokens)
    assert isinstance(last, Generation)
    return last.text


def begun(model: ChatModel, tokens: int = 12) -> Iterator[str | Generation]:
    """An answer that has said something, and not all."""
    stream = model.generate(asked(QUESTIONS[2]), max_tokens=tokens)
    assert isinstance(next(stream), str)
    return stream


class SlowEncoder(OwnedEncoder):
    """A library that computes until it is told to be done."""

    spec = SPEC

    def __init__(self) -> None:
        self.computing, self.go_on, self.order = threading.Event(), threading.Event(), list[str]()

    def _encode(self, batch: Any) -> Float:
        self.computing.set()
        assert self.go_on.wait(60)
        self.order.append("computed")
        return np.zeros((len(batch), IMAGE_TOKENS, HIDDEN), np.float32)

    def _free(self) -> None:
        self.order.append("freed")


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> Iterator[None]:
    """Before a use is refused, garbage is collected: it need not be looked for in all that other tests have loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def model(medgemma_source: Path) -> Iterator[ChatModel]:
    with chat_model(medgemma_source) as made:
        yield made


@pytest.fixture(scope="module")
def images(medsiglip_artifact: Path) -> Iterator[ContrastiveModel]:
    opened = open_model(medsiglip_artifact)
    assert isinstance(opened, ContrastiveModel)
    yield opened
    opened.close()


def in_a_thread(call: Callable[[], Any]) -> Any:
    """A call's result, or its error, from a thread that ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


# ---------------------------------------------------------------- in one thread

USES: dict[str, Callable[[ChatModel], Any]] = {
    "generate": lambda model: list(model.generate(asked("?"))),
    "score": lambda model: model.score(asked("?"), ["yes", "no"]),
    "classify": lambda model: model.classify([photo(40, 40)], ["a nodule", "nothing"]),
    "encode_images": lambda model: model.encode_images([photo(40, 40)]),
    "segments": lambda model: model.segments(asked("?")),
    "prefill": lambda model: list(model.decoder.prefill([Tokens((2, 3))])),
    "step": lambda model: model.decoder.step([3]),
    "encode": lambda model: model.vision and model.vision.encode(np.zeros((1, 16, 16, 3), np.uint8)),
}


@pytest.mark.parametrize("use", USES)
def test_a_second_use_while_an_answer_is_read_is_refused_by_name(model: ChatModel, use: str) -> None:
    alone = [piece for piece in model.generate(asked(QUESTIONS[2]), max_tokens=12) if isinstance(piece, str)]
    stream, pieces = model.generate(asked(QUESTIONS[2]), max_tokens=12), []
    for piece in stream:
        if isinstance(piece, str):
            pieces.append(piece)
            with pytest.raises(UsageError, match="an answer is still under way in this thread") as caught:
                USES[use](model)
            assert "close()" in (caught.value.remedy or "")
    assert pieces == alone
    assert model.score(asked("?"), ["yes"]).shape == (1,), "afterwards it is free"


def test_texts_are_counted_while_an_answer_is_read(model: ChatModel) -> None:
    stream = begun(model)
    assert model.tokenize("a nodule")
    assert len(list(stream)) > 1


def test_whoever_calls_back_from_within_is_refused(images: ContrastiveModel) -> None:
    def pictures() -> Iterator[Any]:
        images.embed_text(["a"])
        yield photo(40, 40)

    with pytest.raises(UsageError, match="embeddings of texts cannot begin: scores of labels is still under way"):
        images.classify(pictures(), ["a", "b"])  # type: ignore[arg-type]
    assert images.classify([photo(40, 40)], ["a", "b"]).shape == (1, 2)


def abandoned(model: ChatModel) -> None:
    for _ in model.generate(asked("?"), max_tokens=8):
        break


def closed(model: ChatModel) -> None:
    stream = begun(model)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def failed(model: ChatModel) -> None:
    def consume() -> None:
        for _ in model.generate(asked("?"), max_tokens=8):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()


def lost_in_a_cycle(model: ChatModel) -> None:
    gc.disable()
    held: list[Any] = [begun(model)]
    held.append(held)


def never_begun(model: ChatModel) -> None:
    model.kept = model.generate(asked("?"))  # type: ignore[attr-defined]


def given_up_by_a_thread_that_ended(model: ChatModel) -> None:
    model.kept = in_a_thread(lambda: begun(model))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "leave", [abandoned, closed, failed, lost_in_a_cycle, never_begun, given_up_by_a_thread_that_ended]
)
def test_an_answer_that_nobody_reads_on_frees_the_model(
    model: ChatModel, leave: Callable[[ChatModel], None], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(gc.enable)
    expected = answered(model)
    leave(model)
    assert answered(model) == expected


def test_a_stream_that_lost_its_model_says_so(model: ChatModel) -> None:
    stream = in_a_thread(lambda: begun(model))
    answered(model)
    with pytest.raises(UsageError, match="an answer was given up"):
        next(stream)


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.sampled_from(["next", "next", "next", "close", "score", "elsewhere"]), st.integers(0, 2)),
        min_size=6,
        max_size=40,
    )
)
def test_in_any_order_an_answer_is_right_or_refused(medgemma_source: Path, steps: list[tuple[str, int]]) -> None:
    """Never another's: what was read of each answer is the beginning of what is read of it alone."""
    model = chat_model(medgemma_source)
    alone = [answered(model, number) for number in range(3)]
    scores = model.score(asked("?"), ["yes", "no"])
    streams: dict[int, Iterator[str | Generation]] = {}
    read = ["", "", ""]
    for what, number in steps:
        try:
            if what == "close":
                streams.pop(number, iter(())).close() if number in streams else None  # type: ignore[attr-defined]
                read[number] = ""
            elif what == "score":
                assert np.array_equal(model.score(asked("?"), ["yes", "no"]), scores)
            else:
                if number not in streams:
                    read[number] = ""
                    streams[number] = model.generate(asked(QUESTIONS[number], number), max_tokens=12)
                model.wait_s = 0
                stream = streams[number]
                piece = next(stream) if what == "next" else in_a_thread(partial(next, stream))
                read[number] += piece if isinstance(piece, str) else ""
                assert alone[number].startswith(read[number])
                assert isinstance(piece, str) or piece.text == alone[number] == read[number]
        except (UsageError, StopIteration):
            if what in ("next", "elsewhere"):
                del streams[number]
    model.close()


# ---------------------------------------------------------------- in several


def test_another_thread_waits_for_its_turn(model: ChatModel) -> None:
    expected, stream = answered(model), begun(model)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(answered, model)
        assert len(list(stream)) > 1, "who reads is not disturbed by who waits"
        assert waiting.result(timeout=60) == expected


def test_it_waits_as_long_as_it_is_told_and_says_what_for(model: ChatModel) -> None:
    model.wait_s, stream = 0.05, begun(model)
    with pytest.raises(UsageError, match=r"scores cannot begin: after 0\.05 s an answer is still under way in "):
        in_a_thread(lambda: model.score(asked("?"), ["yes"]))
    assert len(list(stream)) > 1


def test_each_piece_may_be_read_in_another_thread(model: ChatModel) -> None:
    """As a web service does. The model is the answer's in all of them."""
    expected, stream = answered(model, 2), model.generate(asked(QUESTIONS[2], 2), max_tokens=12)
    pieces: list[Any] = []
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    model.wait_s = 0
    try:
        for turn in range(100):
            piece = pools[turn % 3].submit(next, stream, None).result(timeout=60)
            if piece is None:
                break
            pieces.append(piece)
            if not isinstance(piece, Generation):
                with pytest.raises(UsageError, match="under way"):
                    model.score(asked("?"), ["yes"])
    finally:
        for pool in pools:
            pool.shutdown()
    assert isinstance(pieces[-1], Generation)
    assert pieces[-1].text == "".join(pieces[:-1]) == expected


def test_two_threads_that_read_one_answer_at_once_are_told(medgemma_source: Path) -> None:
    vision = SlowEncoder()
    with chat_model(medgemma_source, vision=vision) as model, ThreadPoolExecutor(2) as pool:
        stream = model.generate(asked("?"), max_tokens=3)
        reading = pool.submit(list, stream)
        assert vision.computing.wait(60)
        with pytest.raises(UsageError, match="two threads ask for the next item of an answer at once"):
            next(stream)
        closing = pool.submit(stream.close)  # type: ignore[attr-defined]
        vision.go_on.set()
        closing.result(timeout=60)
        assert len(reading.result(timeout=60)) <= 4
        assert model.score([Message("user", "?")], ["yes"]).shape == (1,)


def test_a_sequence_is_continued_by_nobody_else(model: ChatModel) -> None:
    """A decoder that is used directly: a step belongs to the prompt of its own thread, or of its own answer."""
    decoder, prompt, other = model.decoder, [Tokens((2, 3, 4))], [Tokens((2, 9))]
    (first,) = decoder.prefill(prompt)
    expected = decoder.step([7])
    list(decoder.prefill(prompt))
    in_a_thread(lambda: list(decoder.prefill(other)))
    with pytest.raises(UsageError, match="a step behind another's prompt"):
        decoder.step([7])
    list(decoder.prefill(prompt))
    answered(model)
    with pytest.raises(UsageError, match="a step behind another's prompt"):
        decoder.step([7])
    assert np.array_equal(next(decoder.prefill(prompt)), first)
    assert np.array_equal(decoder.step([7]), expected)


@pytest.mark.parametrize("level", ["Q4_0", "q4"])
def test_a_part_that_is_used_alone_has_one_user_too(request: pytest.FixtureRequest, level: str) -> None:
    folder = request.getfixturevalue("medgemma_onnx" if level == "q4" else "medgemma_artifact")
    with prepare(folder, level, context=256).part("decoder") as decoder:
        prompt = [Tokens(tuple(range(2, 40)))]
        expected = list(decoder.prefill(prompt, [10, 37]))
        rows = decoder.prefill(prompt, [10, 37])
        next(rows)
        for use in (lambda: list(decoder.prefill([Tokens((5,))])), lambda: decoder.step([3])):
            with pytest.raises(UsageError, match="a prompt is still under way in this thread"):
                use()
        assert np.array_equal(next(rows), expected[1])
        rows.close()
        decoder.step([3])


# ---------------------------------------------------------------- closing


def test_with_closes(medgemma_source: Path) -> None:
    with chat_model(medgemma_source) as model:
        stream = begun(model)
    with pytest.raises(UsageError, match="this model is closed"):
        next(stream)
    model.close()
    for use in USES.values():
        with pytest.raises(UsageError, match=r"this (model|decoder|encoder) is closed"):
            use(model)
    with pytest.raises(UsageError, match="this model is closed"):
        model.tokenize("a")


def test_closing_ends_what_another_thread_reads_and_waits_for_the_library(medgemma_source: Path) -> None:
    vision = SlowEncoder()
    model = chat_model(medgemma_source, vision=vision)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(answered, model)
        assert vision.computing.wait(60)
        closing = pool.submit(model.close)
        while not model.is_closed:
            time.sleep(0.001)
        vision.go_on.set()
        closing.result(timeout=60)
        with pytest.raises(UsageError, match="is closed"):
            reading.result(timeout=60)
    assert vision.order == ["computed", "freed"]


# ---------------------------------------------------------------- where a mistake would end the process

_BEGINNING = """
import faulthandler, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import edgekit
from edgekit.inputs.phantoms import generate
faulthandler.enable()
folder, level = sys.argv[1:3]
images = [phantom.image for phantom in generate(11, 4)]
questions = ["What is the main finding in this image?", "Is there a nodule?", "Describe this image."]
model = edgekit.open(folder, level)

def ask(number, model=model, tokens=16):
    if "generate" not in model.abilities:
        return model.classify([images[number % 4]], ["no finding", "nodule", "pneumothorax"]).tobytes()
    turn = edgekit.Message("user", edgekit.Image(images[number % 4]), questions[number % 3])
    *_, answer = model.generate([turn], max_tokens=tokens)
    return answer.text

def stream(tokens=16):
    if "generate" not in model.abilities:
        return None
    found = model.generate([edgekit.Message("user", edgekit.Image(images[0]), questions[2])], max_tokens=tokens)
    next(found)
    return found
"""

_THREADS = """
alone = [ask(number) for number in range(12)]
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(ask, range(12))) == alone
if first := stream():
    expected, unread = [*first][-1].text, stream()
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    turn = 0
    while (piece := pools[turn % 3].submit(next, unread).result()) and isinstance(piece, str):
        turn += 1
    assert piece.text == expected
"""

_TWO_MODELS = """
def work(seed):
    with edgekit.open(folder, level) as mine:
        return [ask(number, mine, 8) for number in range(2)]
alone = [ask(number, model, 8) for number in range(2)]
with ThreadPoolExecutor(3) as pool:
    assert all(answers == alone for answers in pool.map(work, range(3)))
"""

_CLOSE = """
for pause in (0.0, 0.01, 0.05):
    model = edgekit.open(folder, level)
    ended = []
    def run(model=model):
        try:
            for number in range(1000):
                ask(number, model)
        except edgekit.UsageError as error:
            ended.append(str(error))
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads: thread.start()
    time.sleep(pause)
    model.close()
    for thread in threads: thread.join(60)
    assert len(ended) == 3 and all("is closed" in error for error in ended), ended
"""

_FORK = """
ask(0)
unfinished = stream()
held = threading.Thread(target=lambda: ask(1))  # whatever another thread holds at the moment of the fork
held.start()
child = os.fork()
if not child:
    refused = 0
    for use in (lambda: ask(0), lambda: next(unfinished or iter([ask(1)]))):
        try:
            use()
        except edgekit.UsageError as error:
            refused += "of which this one is a fork" in str(error)
    model.close()
    model.close()
    del unfinished, model
    sys.exit(0 if refused == 2 else 3)
ended = os.waitpid(child, 0)[1]
if unfinished:
    list(unfinished)
held.join(60)
assert ended == 0, ended
ask(2)
"""

_REOPEN = """
ask(0)
child = os.fork()
if not child:
    try:
        with edgekit.open(folder, level) as mine:
            ask(0, mine)
    except edgekit.UsageError as error:
        sys.exit(0 if "before this process was forked" in str(error) else 3)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""

_EXIT = """
unfinished = stream()
module = sys.modules[__name__]
module.cycle = [module, unfinished]
"""

_EXIT_COMPUTING = """
def run():
    try:
        while True:
            ask(0)
    except edgekit.UsageError:
        pass
for _ in range(2):
    threading.Thread(target=run, daemon=True).start()
time.sleep(0.1)
"""

GGUF, ONNX, PAIR = ("medgemma_artifact", "Q4_0"), ("medgemma_onnx", "q4"), ("medsiglip_artifact", "fp32")
SCRIPTS = [
    *((name, script, each)
      for name, script in (("threads", _THREADS), ("close", _CLOSE), ("fork", _FORK)) for each in (GGUF, ONNX, PAIR)),
    *((name, script, each)
      for name, script in (("exit", _EXIT), ("exit while computing", _EXIT_COMPUTING)) for each in (GGUF, ONNX)),
    ("two models", _TWO_MODELS, GGUF),
    ("two models", _TWO_MODELS, PAIR),
    ("reopen in a fork", _REOPEN, GGUF),
]  # fmt: skip


@pytest.mark.parametrize(("name", "script", "opened"), SCRIPTS, ids=[f"{name}-{each[1]}" for name, _, each in SCRIPTS])
def test_the_process_lives_on(request: pytest.FixtureRequest, name: str, script: str, opened: tuple[str, str]) -> None:
    if "fork" in name and sys.platform == "win32":
        pytest.skip("no fork")
    folder = request.getfixturevalue(opened[0])
    # A fork has no thread of ONNX Runtime's telemetry, for which its end would wait.
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", _BEGINNING + script, str(folder), opened[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_scores_and_an_answer_at_once_wait_for_each_other(model: ChatModel) -> None:
    """Neither for as long as it may wait: who waits holds nothing that the other needs."""
    options = [f"option {number}" for number in range(40)]
    with ThreadPoolExecutor(2) as pool:
        scored = pool.submit(model.score, asked("?"), options)
        time.sleep(0.02)
        told = pool.submit(answered, model)
        assert len(scored.result(60)) == 40
        assert told.result(60)
