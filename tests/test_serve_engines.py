"""The server's engines: real processes with the reference models, and whatever can happen to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import edgekit
from edgekit import Message
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import EngineOptions
from edgekit.serve.jobs import Event, Job

T = TypeVar("T")
LIMIT_S = 120.0


@pytest.fixture(autouse=True)
def _functions_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines import their functions from `engine_jobs`."""
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await coroutine

    return asyncio.run(limited())


@asynccontextmanager
async def engines(*folders: Path, free: Any = None, levels: Any = (), **options: Any) -> AsyncIterator[Engines]:
    chosen = EngineOptions(**{"perform": "engine_jobs:misbehave", "slots": 2, **options})
    made = Engines(served(folders, levels), chosen, **({"free": free} if free else {}))
    try:
        yield made
    finally:
        await made.close()


def chat(text: str, max_tokens: int = 12) -> Job:
    messages = [{"role": "user", "parts": [{"text": text}]}]
    return Job("chat", {"messages": messages, "options": {"max_tokens": max_tokens}})


def does(what: str, images: tuple[bytes, ...] = (), **body: Any) -> Job:
    return Job("chat", {"do": what, **body}, images)


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def until(true: Callable[[], bool], limit_s: float = 30) -> None:
    async with asyncio.timeout(limit_s):
        while not true():
            await asyncio.sleep(0.01)


def text_of(events: list[Event]) -> str:
    return str(events[-1].body["text"])


def test_two_chats_at_once_are_those_of_an_open_model(medgemma_artifact: Path) -> None:
    questions = ["What is a cough?", "Name a bone of the hand."]

    async def both() -> list[str]:
        async with engines(medgemma_artifact) as made:
            answers = await asyncio.gather(*(all_of(made.ask("medgemma", chat(one))) for one in questions))
        return list(map(text_of, answers))

    with edgekit.open(medgemma_artifact) as model:
        expected = [list(model.generate([Message("user", q)], max_tokens=12))[-1].text for q in questions]
    assert run(both()) == expected


def test_an_error_of_the_engine_is_raised_as_it_was(medgemma_artifact: Path) -> None:
    async def refused() -> None:
        async with engines(medgemma_artifact) as made:
            with pytest.raises(edgekit.InputError) as raised:
                await all_of(made.ask("medgemma", does("refuse")))
            assert (raised.value.allowed, raised.value.remedy) == ("another", "ask otherwise")

    run(refused())
