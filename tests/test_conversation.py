"""What is kept of a named conversation where there is little room, or something fails: never less than before."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import largest_file, photo
from small_models import chat_model

from edgekit.artifacts.files import sha256_json
from edgekit.errors import EdgekitError, EdgekitWarning, InputError, NoSpaceError
from edgekit.inputs.message import Image, Message
from edgekit.machine.kept import COMPUTED, CONVERSATIONS, Kept
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.conversation import Conversation, claimed, kept_conversations

TURNS = [Message("user", Image(photo(300, 200)), "What is it?"), Message("assistant", "A picture.")]
MORE = [*TURNS, Message("user", "Sure?"), Message("assistant", "Yes. " * 20)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(medgemma_source: Path) -> Iterator[ChatModel]:
    with chat_model(medgemma_source) as opened:
        yield opened


def begun(name: str) -> Conversation:
    return Conversation(name, sha256_json("a model"))


def said(name: str) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in begun(name).messages]


def told(turns: list[Message]) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in turns]


def names() -> list[str | None]:
    return [one.name for one in kept_conversations(Kept(CONVERSATIONS))]


def test_turns_and_images_come_back_and_what_was_computed_goes_on(model: ChatModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun("c").keep(TURNS, model)
    again = begun("c")
    assert told(again.messages) == told(TURNS)
    (array,) = again.messages[0].images
    begun("d").keep(again.messages, model)
    assert np.array_equal(begun("d").messages[0].images[0], array), "an image as the model sees it stays as it is"
    assert again.computed
    model.load(again.computed)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_without_room_for_what_was_computed_what_was_said_is_kept(model: ChatModel) -> None:
    begun("c").keep(TURNS, model)
    said_bytes, computed_bytes = (Kept(kind).entries()[0].bytes for kind in (CONVERSATIONS, COMPUTED))
    room = said_bytes + 2000
    assert room < computed_bytes
    with largest_file(room), pytest.warns(EdgekitWarning, match=r"conversation c is kept.* is not: .*no space left"):
        begun("c").keep(MORE, model)
    assert (said("c"), begun("c").computed) == (told(MORE), None)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_what_cannot_be_kept_is_refused_and_what_was_kept_stays(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun("c").keep(TURNS, model)
    with largest_file(100), pytest.raises(NoSpaceError, match="no space left"):
        begun("c").keep(MORE, model)
    assert said("c") == told(TURNS)
    conversation = begun("c")
    conversation.kept.most_bytes = 1000
    with pytest.raises(NoSpaceError, match="to be kept"):
        conversation.keep(MORE, model)
    assert said("c") == told(TURNS)
    with pytest.raises(InputError, match="control token"):
        begun("c").keep([*TURNS[:1], Message("assistant", "<end_of_turn>")], model)
    assert said("c") == told(TURNS)


def test_older_conversations_that_go_are_said_and_an_open_one_stays(model: ChatModel) -> None:
    for number, name in enumerate(("open", "old", "young")):
        begun(name).keep(TURNS, model)
        for kind in (CONVERSATIONS, COMPUTED):
            for entry in Kept(kind).entries():
                if entry.used > 100:
                    os.utime(entry.path, (number, number))
    conversation = begun("new")
    conversation.kept.most_bytes = sum(entry.bytes for entry in Kept(CONVERSATIONS).entries())
    with claimed("open"), pytest.warns(EdgekitWarning) as caught:
        conversation.keep(TURNS, model)
    removed = ["conversation old was removed"]
    assert [str(one.message).partition(":")[0] for one in caught] == removed
    assert names() == ["open", "young", "new"]
    assert len(Kept(COMPUTED).entries()) == 3


def test_why_what_was_computed_is_not_kept_is_said(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(messages: Any) -> bytes:
        raise InputError("no such page")

    with monkeypatch.context() as patched:
        patched.setattr(model, "save", failing)
        with pytest.warns(EdgekitWarning, match="no such page"):
            begun("c").keep(TURNS, model)
    assert (said("c"), begun("c").computed) == (told(TURNS), None)


def test_a_conversation_that_fills_the_context_is_kept(medgemma_source: Path) -> None:
    with chat_model(medgemma_source) as model, warnings.catch_warnings():
        warnings.simplefilter("error")
        begun("c").keep(TURNS, model)
        model.decoder.context = 10
        begun("c").keep(MORE, model)
    assert (said("c"), begun("c").computed) == (told(MORE), None)


def test_a_name_is_claimed_by_one(model: ChatModel) -> None:
    begun("c").keep(TURNS, model)
    (one,) = kept_conversations(Kept(CONVERSATIONS))
    with claimed("c"), claimed("d"):
        for refused in (claimed("c").__enter__, one.forget):
            with pytest.raises(EdgekitError, match="conversation c is open in another process"):
                refused()
    assert one.forget()
    assert names() == []
    assert Kept(COMPUTED).entries() == []
    for name in ("", " ", "a" * 201):
        with pytest.raises(InputError), claimed(name):
            pass


def test_where_there_are_no_locks_a_name_can_be_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(handle: int, *, wait: bool) -> bool:
        raise OSError("no locks")

    monkeypatch.setattr("edgekit.artifacts.files.flock", missing)
    with claimed("c"):
        pass
    assert not list(Kept(CONVERSATIONS).folder.iterdir())
