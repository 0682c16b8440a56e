"""A client's messages as turns: what is one turn, and how long that may take."""

from __future__ import annotations

import time
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.serve.api.conversation import ChatMessage, joined, of_messages
from edgekit.serve.api.handed_over import HandedOver
from edgekit.serve.api.parts import Collected
from edgekit.serve.api.reading import ParameterError

PARTS = st.lists(st.one_of(st.builds(lambda text: {"text": text}, st.text(max_size=3)), st.just({"image": 0})))


def two(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One behind the other, with a gap where text meets text."""
    if first and second and "text" in first[-1] and "text" in second[0]:
        return [*first[:-1], {"text": f"{first[-1]['text']}|{second[0]['text']}"}, *second[1:]]
    return [*first, *second]


@given(st.lists(PARTS, max_size=6))
def test_parts_are_joined_as_one_behind_the_other(messages: list[list[dict[str, Any]]]) -> None:
    assert joined(messages, "|") == reduce(two, messages, [])


def test_a_gap_stands_between_texts_of_one_speaker() -> None:
    messages = [ChatMessage(role="user", content=text) for text in ("a", "b", "")]
    said = of_messages(messages, Collected(HandedOver())).messages("messages")
    assert said == [{"role": "user", "parts": [{"text": "a\n\nb\n\n"}]}]


def test_many_messages_of_one_speaker_take_no_time_to_speak_of() -> None:
    """Each was once copied for every one behind it: 25 MB of them stopped the whole server for a minute."""
    messages = [ChatMessage(role="user", content="x" * 20) for _ in range(80_000)]
    began = time.process_time()
    (turn,) = of_messages(messages, Collected(HandedOver())).messages("messages")
    assert time.process_time() - began < 5
    assert len(turn["parts"][0]["text"]) == 80_000 * 22 - 2


@pytest.mark.parametrize("roles", [("user",), ("user", "assistant"), ("system", "user")])
def test_all_of_it_together_is_no_longer_than_any_context(roles: tuple[str, ...]) -> None:
    messages = [ChatMessage(role=roles[i % len(roles)], content="x" * 300) for i in range(8001)]
    with pytest.raises(ParameterError, match="characters in all"):
        of_messages([*messages, ChatMessage(role="user", content="?")], Collected(HandedOver())).messages("messages")
