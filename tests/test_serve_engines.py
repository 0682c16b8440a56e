"""The server's engines: real processes with the reference models, and whatever can happen to them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import LEVELS, Copy, one_bit_changed, photo
from pictures import png

import edgekit
from edgekit import ArtifactError, Image, InputError, Message, UsageError
from edgekit.artifacts import manifest
from edgekit.runtime.opening import prepare
from edgekit.runtime.use import Use
from edgekit.serve.engines import channel
from edgekit.serve.engines.channel import WINDOW
from edgekit.serve.engines.errors import Busy, Draining, EngineDied, EngineFailed, Poisoned, TooLarge, UnknownModel
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.room import Need, free_bytes
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import Delay, EngineOptions
from edgekit.serve.jobs import Event, Job

T = TypeVar("T")
LIMIT_S = 120.0


@pytest.fixture(autouse=True)
def _functions_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines import their functions from `engine_jobs`."""
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def run(coroutine: Coroutine[Any, Any, T], limit_s: float = LIMIT_S) -> T:
    async def limited() -> T:
        async with asyncio.timeout(limit_s):
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


def chat(text: str, max_tokens: int = 12, image: bytes | None = None) -> Job:
    parts: list[dict[str, Any]] = [*([{"image": 0}] if image else []), {"text": text}]
    body = {"messages": [{"role": "user", "parts": parts}], "options": {"max_tokens": max_tokens}}
    return Job("chat", body, (image,) if image else ())


def does(what: str, images: tuple[bytes, ...] = (), **body: Any) -> Job:
    return Job("chat", {"do": what, **body}, images)


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def until(true: Callable[[], bool], limit_s: float = 30) -> None:
    async with asyncio.timeout(limit_s):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def begun(made: Engines, job: Job, name: str = "medgemma") -> AsyncIterator[AsyncGenerator[Event, None]]:
    """A job whose first event has come; it is given up at the end."""
    events = made.ask(name, job)
    try:
        await anext(events)
        yield events
    finally:
        await events.aclose()


def text_of(events: list[Event]) -> str:
    return str(events[-1].body["text"])


def left_overs() -> tuple[int, int, set[int], set[Path]]:
    """Threads, open files, processes and temporary files of this process."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    # Python tries a temporary folder by a file of eight letters, which stays where a kill meets it.
    paths = {path for path in Path(tempfile.gettempdir()).iterdir() if len(path.name) != 8}
    return threading.active_count(), files, children, paths


def left_since(before: tuple[int, int, set[int], set[Path]]) -> list[object]:
    """What is there now and was not: what an earlier test left and is gone by now is nobody's fault here."""
    threads, files, children, paths = left_overs()
    more = [max(0, threads - before[0]), max(0, files - before[1]), children - before[2], paths - before[3]]
    return [one for one in more if one]


# ---------------------------------------------------------------- answers


def test_what_only_who_runs_the_machine_can_do_is_logged_and_in_no_answer(
    medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))  # where nothing was measured
    caplog.set_level("INFO", "edgekit.serve")
    with edgekit.open(medsiglip_artifact, level="fp32") as model:
        assert any("edgekit tune" in text for text in model.warnings)

    async def embedded() -> list[Event]:
        async with engines(medsiglip_artifact, levels=["fp32"], perform="edgekit.serve.perform:perform") as made:
            return await all_of(made.ask("medsiglip:fp32", Job("embed", {"inputs": [{"text": "Hi"}]})))

    said = [event.body["text"] for event in run(embedded()) if event.kind == "warning"]
    assert any("stand-in" in text for text in said)
    assert not any("edgekit tune" in text for text in said)
    assert "medsiglip:fp32: which runtime is the fastest here was not measured (edgekit tune" in caplog.text


def test_two_chats_at_once_are_those_of_an_open_model(medgemma_artifact: Path) -> None:
    picture = png(photo(64, 48))
    asked = [("What is a cough?", None), ("Which kind of image is this?", picture)]

    async def both() -> list[str]:
        async with engines(medgemma_artifact) as made:
            jobs = [chat(text, image=image) for text, image in asked]
            answers = await asyncio.gather(*(all_of(made.ask("medgemma", job)) for job in jobs))
            assert made.status("medgemma").loads == 1
            assert ["".join(event.body["text"] for event in events[:-1]) for events in answers] == [
                *map(text_of, answers)
            ]
        return list(map(text_of, answers))

    with edgekit.open(medgemma_artifact) as model:
        questions = [Message("user", *([Image(image)] if image else []), text) for text, image in asked]
        expected = [list(model.generate([one], max_tokens=12))[-1].text for one in questions]
    assert run(both()) == expected


def test_an_error_of_the_engine_is_raised_as_it_was(medgemma_artifact: Path) -> None:
    async def refused() -> None:
        async with engines(medgemma_artifact) as made:
            with pytest.raises(InputError, match="no such thing") as raised:
                await all_of(made.ask("medgemma", does("refuse")))
            assert (raised.value.allowed, raised.value.remedy) == ("another", "ask otherwise")
            assert made.status("medgemma").restarts == 0

    run(refused())


def test_bytes_go_there_and_back(medgemma_artifact: Path) -> None:
    images = (os.urandom(3_000_000), b"", os.urandom(70_001))

    async def echoed() -> Event:
        async with engines(medgemma_artifact) as made:
            return (await all_of(made.ask("medgemma", does("echo", images))))[-1]

    event = run(echoed())
    assert (event.body["lengths"], event.data) == (list(map(len, images)), b"".join(images))


def test_the_server_loads_no_library(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    program = """
import sys, pathlib
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.served import served
Engines(served(list(map(pathlib.Path, sys.argv[1:]))))
print(*({"llama_cpp", "onnxruntime", "openvino", "torch", "transformers", "edgekit.serve.perform"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, medgemma_artifact, medsiglip_artifact]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


def test_embeddings_are_those_of_an_open_model(medsiglip_artifact: Path) -> None:
    picture = png(photo(448, 448))

    async def embedded() -> bytes:
        async with engines(medsiglip_artifact, perform=EngineOptions.perform) as made:
            job = Job("embed", {"inputs": [{"text": "a cough"}, {"image": 0}]}, (picture,))
            return (await all_of(made.ask("medsiglip", job)))[-1].data

    with edgekit.open(medsiglip_artifact) as model:
        rows = np.concatenate([model.embed_text(["a cough"]), model.embed_image([picture])])
    np.testing.assert_array_equal(np.frombuffer(run(embedded()), "<f4").reshape(rows.shape), rows)


# ---------------------------------------------------------------- who leaves, who waits


def test_who_leaves_frees_the_slot(medgemma_artifact: Path) -> None:
    story = chat("Tell a long story.", 4000)
    drawn = {"max_tokens": 4000, "n": 64, "temperature": 3.0, "logit_bias": {"1": -100, "5": -100}}  # for a minute

    async def left() -> None:
        async with engines(medgemma_artifact, slots=1) as made:
            async with begun(made, replace(story, body={**story.body, "options": drawn})):
                assert made.status("medgemma").running == 1
            await until(lambda: made.status("medgemma").running == 0, 10)
            assert text_of(await all_of(made.ask("medgemma", chat("What is a cough?"))))

    run(left())


def test_who_leaves_while_the_task_is_cancelled(medgemma_artifact: Path) -> None:
    """As a server does with the route of a client that has gone."""

    async def left() -> None:
        async with engines(medgemma_artifact, slots=1) as made:
            running = asyncio.create_task(all_of(made.ask("medgemma", does("wait"))))
            await until(lambda: made.status("medgemma").running == 1)
            waiting = asyncio.create_task(all_of(made.ask("medgemma", does("wait"))))
            await until(lambda: made.status("medgemma").queued == 1)
            waiting.cancel()
            await until(lambda: made.status("medgemma").queued == 0)
            running.cancel()
            await until(lambda: made.status("medgemma").running == 0)

    run(left())


def test_a_slot_is_taken_until_the_engine_says_that_it_is_free(medgemma_artifact: Path) -> None:
    async def deaf() -> float:
        async with engines(medgemma_artifact, slots=1) as made:
            async with begun(made, does("ignore", seconds=1.5)):
                began = time.monotonic()
            assert made.status("medgemma").running == 1
            await all_of(made.ask("medgemma", does("echo")))
            return time.monotonic() - began

    assert 1 < run(deaf()) < 60


def test_a_full_queue_says_when_to_come_again(medgemma_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medgemma_artifact, slots=1, queue=1) as made:
            async with begun(made, does("wait")) as first:
                waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
                await until(lambda: made.status("medgemma").queued == 1)
                with pytest.raises(Busy, match="1 requests wait for medgemma:BF16") as raised:
                    await all_of(made.ask("medgemma", does("echo")))
                assert raised.value.retry_after_s
                assert raised.value.retry_after_s >= 1
                await first.aclose()
                assert (await waiting)[0].kind == "result"
            assert len(await all_of(made.ask("medgemma", does("echo")))) == 1

    run(asked())


def test_each_of_many_is_answered_or_told_that_all_is_full(medgemma_artifact: Path) -> None:
    async def asked() -> Counter[str]:
        async with engines(medgemma_artifact, slots=2, queue=8) as made:
            counts: Counter[str] = Counter()

            async def client(number: int) -> None:
                for turn in range(20):
                    data = bytes([number]) * (1000 * turn + 1)
                    try:
                        (event,) = await all_of(made.ask("medgemma", does("echo", (data,))))
                        counts["answered" if event.data == data else "another's"] += 1
                    except Busy:
                        counts["full"] += 1
                        await asyncio.sleep(0.002)

            await asyncio.gather(*map(client, range(32)))
            assert (made.status("medgemma").queued, made.status("medgemma").running) == (0, 0)
        return counts

    counts = run(asked())
    assert counts["answered"] + counts["full"] == 32 * 20
    assert min(counts["answered"], counts["full"]) > 0


def test_light_jobs_need_no_slot(medgemma_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medgemma_artifact, slots=1) as made, begun(made, does("wait")):
            waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
            await until(lambda: made.status("medgemma").queued == 1)
            events = await all_of(made.ask("medgemma", Job("tokenize", {"do": "echo"})))
            assert (events[0].kind, waiting.done()) == ("result", False)
            waiting.cancel()

    run(asked())


def test_who_reads_slowly_makes_the_engine_wait(medgemma_artifact: Path, tmp_path: Path) -> None:
    async def slowly() -> None:
        job = does("count", events=5000, file=str(tmp_path / "far"))
        async with engines(medgemma_artifact) as made, begun(made, job) as events:
            for _ in range(9):
                await anext(events)
            await all_of(made.ask("medgemma", does("echo")))  # nobody else waits
            await asyncio.sleep(0.5)
            assert int((tmp_path / "far").read_text()) <= 10 + WINDOW + 100
            rest = [int(event.body["text"]) async for event in events]
            assert rest == list(range(10, 5000))

    run(slowly())


def test_who_leaves_while_the_engine_waits_frees_the_slot(medgemma_artifact: Path) -> None:
    async def left() -> None:
        async with engines(medgemma_artifact, slots=1) as made:
            async with begun(made, does("count", events=5000)):
                await asyncio.sleep(0.3)
            await until(lambda: made.status("medgemma").running == 0)

    run(left())


async def cancelled_at_random(folder: Path, count: int) -> list[float]:
    """Seconds until the slots are free again, of so many who leave while they wait, are answered, or load."""
    chance, times = random.Random(count), []
    async with engines(folder, queue=1000) as made:
        for _ in range(count):
            tasks = [asyncio.create_task(all_of(made.ask("medgemma", chat("Count.", 2000)))) for _ in range(4)]
            await asyncio.sleep(chance.random() * 0.2)
            for task in chance.sample(tasks, len(tasks)):
                task.cancel()
            began = time.monotonic()
            await until(lambda: made.status("medgemma").running + made.status("medgemma").queued == 0)
            times.append(time.monotonic() - began)
        assert text_of(await all_of(made.ask("medgemma", chat("What is a cough?"))))
        assert (made.status("medgemma").loads, made.status("medgemma").restarts) == (1, 0)
    return sorted(times)


def test_many_leave_at_random_moments(medgemma_artifact: Path) -> None:
    assert run(cancelled_at_random(medgemma_artifact, 30))[-1] < 5


@pytest.mark.slow
def test_500_leave_at_random_moments(medgemma_artifact: Path) -> None:
    before = left_overs()
    times = run(cancelled_at_random(medgemma_artifact, 500), 800)
    assert times[int(0.99 * len(times))] < 1
    assert not left_since(before)


# ---------------------------------------------------------------- crashes


def test_a_crash_costs_what_was_in_flight_and_nothing_else(medgemma_artifact: Path) -> None:
    async def crashed() -> None:
        async with engines(medgemma_artifact, slots=2) as made:
            tasks = [asyncio.create_task(all_of(made.ask("medgemma", job))) for job in (does("crash"), does("wait"))]
            tasks += [asyncio.create_task(all_of(made.ask("medgemma", chat(text)))) for text in ("What?", "Where?")]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for lost in results[:2]:
                assert isinstance(lost, EngineDied)
                assert "SIGSEGV" in lost.message
                assert lost.retry_after_s
            assert all(isinstance(answer, list) and text_of(answer) for answer in results[2:])
            assert (made.status("medgemma").restarts, made.status("medgemma").loads) == (1, 2)

    run(crashed())


def test_what_came_before_a_crash_is_read_first(medgemma_artifact: Path) -> None:
    async def crashed() -> None:
        async with engines(medgemma_artifact) as made:
            events = made.ask("medgemma", does("crash"))
            assert (await anext(events)).body == {"text": "before"}
            with pytest.raises(EngineDied):
                await anext(events)

    run(crashed())


def test_a_mistake_of_ours_is_told_without_what_was_said(
    medgemma_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "edgekit.serve")

    async def failed() -> str:
        async with engines(medgemma_artifact) as made:
            with pytest.raises(EngineDied) as raised:
                await all_of(made.ask("medgemma", does("mistake")))
            return str(raised.value)

    said = run(failed())
    assert "ValueError at engine_jobs.py:" in said
    assert "ValueError at engine_jobs.py:" in caplog.text
    assert "Erika" not in said + caplog.text


def test_an_engine_that_hangs_is_killed_and_its_requests_told(medgemma_artifact: Path) -> None:
    async def hangs() -> None:
        async with engines(medgemma_artifact, silent_s=3.0, slots=1) as made, begun(made, does("wait")) as events:
            await asyncio.sleep(4)  # busy for longer than it may be silent
            status = made.status("medgemma")
            assert (status.state, status.running, status.problem) == ("ready", 1, None)
            os.kill(status.pid or 0, signal.SIGSTOP)
            waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
            await until(lambda: made.status("medgemma").state == "hanging", 3)
            assert "no sign of life" in (made.status("medgemma").problem or "")
            with pytest.raises(EngineDied, match="it gave no sign of life for 3 s"):
                await all_of(events)
            assert (await waiting)[0].kind == "result"
            status = made.status("medgemma")
            assert (status.state, status.restarts, status.problem) == ("ready", 1, None)

    run(hangs())


def test_a_library_that_lets_no_thread_run_hangs_too(medgemma_artifact: Path) -> None:
    async def held() -> None:
        async with engines(medgemma_artifact, silent_s=3.0) as made:
            assert len(await all_of(made.ask("medgemma", does("hold", seconds=1)))) == 2
            with pytest.raises(EngineDied, match="no sign of life"):
                await all_of(made.ask("medgemma", does("hold", seconds=60)))

    run(held(), 30)


@pytest.mark.parametrize("hold", ["weights", "ready"])
def test_an_engine_that_hangs_while_it_loads_holds_nobody_up(
    medgemma_artifact: Path, medsiglip_artifact: Path, hold: str
) -> None:
    """It has the turn of all that are loaded."""

    async def hangs() -> None:
        async with engines(medgemma_artifact, medsiglip_artifact, silent_s=3.0) as made:
            waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
            await until(lambda: bool(made.status("medgemma").pid))
            if hold == "ready":
                await until(lambda: made.status("medgemma").slots > 0)
            else:
                await asyncio.sleep(1)
            os.kill(made.status("medgemma").pid or 0, signal.SIGSTOP)
            assert (await all_of(made.ask("medsiglip", does("echo"))))[0].kind == "result"
            assert (await waiting)[0].kind == "result"

    run(hangs())


def test_what_hangs_makes_room(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    async def hangs() -> None:
        folders, room = (medgemma_artifact, medsiglip_artifact), Room(900_000_000, 700_000_000)
        async with engines(*folders, free=room, silent_s=3.0) as made, begun(made, does("wait")) as events:
            os.kill(made.status("medgemma").pid or 0, signal.SIGSTOP)
            assert (await all_of(made.ask("medsiglip", does("echo"))))[0].kind == "result"
            assert made.status("medgemma").restarts == 1
            with pytest.raises(EngineDied):
                await all_of(events)

    run(hangs())


def test_what_crashed_an_engine_twice_is_refused(medgemma_artifact: Path) -> None:
    async def poisoned() -> None:
        async with engines(medgemma_artifact) as made:
            for _ in range(2):
                with pytest.raises(EngineDied):
                    await all_of(made.ask("medgemma", does("crash")))
            for _ in range(2):
                with pytest.raises(Poisoned):
                    await all_of(made.ask("medgemma", does("crash")))
            assert len(await all_of(made.ask("medgemma", does("crash", images=(b"another",), do="echo")))) == 1
            assert made.status("medgemma").restarts == 2

    run(poisoned())


def test_what_crashed_an_engine_is_forgotten_in_time(medgemma_artifact: Path) -> None:
    """What killed it may have been something else."""
    job = does("wait", seconds=0.5)

    async def killed(made: Engines) -> None:
        async with begun(made, job) as events:
            os.kill(made.status("medgemma").pid or 0, signal.SIGKILL)
            with pytest.raises(EngineDied):
                await all_of(events)

    async def asked() -> None:
        async with engines(medgemma_artifact, forget_s=3.0) as made:
            for _ in range(2):
                await killed(made)
            with pytest.raises(Poisoned, match=r"the same in [123] s") as refused:
                await all_of(made.ask("medgemma", job))
            assert refused.value.retry_after_s
            await asyncio.sleep(refused.value.retry_after_s)
            await all_of(made.ask("medgemma", job))

    run(asked())


def test_a_poisoned_request_that_waited_is_refused_too(medgemma_artifact: Path) -> None:
    async def poisoned() -> list[Any]:
        async with engines(medgemma_artifact, slots=1) as made:
            tasks = [all_of(made.ask("medgemma", does("crash"))) for _ in range(5)]
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in run(poisoned())] == [EngineDied] * 2 + [Poisoned] * 3


def test_an_innocent_neighbour_is_not_refused(medgemma_artifact: Path) -> None:
    """It was under way at a crash; from then on it runs alone, and so does what it was beside."""

    async def beside() -> None:
        async with engines(medgemma_artifact, slots=2) as made:
            innocent, deadly = does("wait", seconds=0.5), does("crash", after_s=0.1)
            both = [all_of(made.ask("medgemma", job)) for job in (innocent, deadly)]
            assert {type(one) for one in await asyncio.gather(*both, return_exceptions=True)} == {EngineDied}
            both = [all_of(made.ask("medgemma", job)) for job in (innocent, deadly)]
            well, crashed = await asyncio.gather(*both, return_exceptions=True)
            assert isinstance(well, list)
            assert well[-1].kind == "result"
            assert isinstance(crashed, EngineDied)
            both = [all_of(made.ask("medgemma", job)) for job in (innocent, deadly)]
            well, refused = await asyncio.gather(*both, return_exceptions=True)
            assert isinstance(well, list)
            assert isinstance(refused, Poisoned)

    run(beside())


def test_a_suspect_runs_alone(medgemma_artifact: Path) -> None:
    async def alone() -> None:
        async with engines(medgemma_artifact, slots=2) as made:
            suspect = does("wait", seconds=0.3)
            both = [all_of(made.ask("medgemma", job)) for job in (suspect, does("crash", after_s=0.1))]
            await asyncio.gather(*both, return_exceptions=True)
            most, tasks = 0, [asyncio.create_task(all_of(made.ask("medgemma", suspect)))]
            tasks += [asyncio.create_task(all_of(made.ask("medgemma", does("echo")))) for _ in range(3)]
            while not tasks[0].done():
                most = max(most, made.status("medgemma").running)
                await asyncio.sleep(0.01)
            assert most == 1
            await asyncio.gather(*tasks)
            async with begun(made, suspect), begun(made, does("wait")):  # cleared
                assert made.status("medgemma").running == 2

    run(alone())


async def killed_under_load(folder: Path, kills: int) -> None:
    """SIGKILL again and again, while many ask: each is answered as ever, or was in flight at a kill."""
    with edgekit.open(folder) as model:
        expected = [list(model.generate([Message("user", f"Count to {n}.")], max_tokens=8))[-1].text for n in range(10)]
    async with engines(folder, slots=2, queue=1000) as made:
        status = lambda: made.status("medgemma")  # noqa: E731
        answered = lost = asked = 0

        async def client(number: int) -> None:
            nonlocal answered, lost, asked
            while status().restarts < kills:
                asked, number = asked + 1, (number + 3) % 10
                job = chat(f"Count to {number}.", 8)
                job.body["client"] = asked  # no two are the same
                try:
                    assert text_of(await all_of(made.ask("medgemma", job))) == expected[number]
                    answered += 1
                except EngineDied:
                    lost += 1

        clients = [asyncio.create_task(client(number)) for number in range(6)]
        for kill in range(kills):
            await until(lambda: status().state == "ready" and status().running == 2 and status().restarts == kill)  # noqa: B023
            await asyncio.sleep(random.Random(kill).random() * 0.3)
            if pid := status().pid:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: status().restarts > kill)  # noqa: B023
        await asyncio.gather(*clients)
        assert lost <= 2 * kills
        assert answered + lost == asked
        assert answered > 0


def test_kills_under_load(medgemma_artifact: Path) -> None:
    run(killed_under_load(medgemma_artifact, 3))


@pytest.mark.slow
def test_60_kills_under_load(medgemma_artifact: Path) -> None:
    edgekit.open(medgemma_artifact, "Q4_0").close()  # what libraries keep open from their first use on
    before = left_overs()
    run(killed_under_load(medgemma_artifact, 60), 800)
    assert not left_since(before)


def test_restarts_wait_longer_each_time() -> None:
    delay, waits = Delay(), []
    for lived_s, worked in [*[(1, False)] * 12, (61, False), (1, False), (1, True)]:
        delay.died(lived_s, worked=worked)
        waits.append(delay.seconds)
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[9:] == [30, 30, 30, 0.1, 0.2, 0.1]


def frame(text: str) -> bytes:
    return struct.pack(">II", len(text), 0) + text.encode()


@pytest.mark.parametrize(
    "sent",
    [
        b"not a frame at all",
        frame("hello"),
        frame("[" * 100_000 + "]" * 100_000),
        frame('{"job": 77, "end": true}'),
        frame('{"job": 1, "event": "other", "body": {}}'),
        frame('{"job": 1, "error": {"type": 5}}'),
        500 * frame('{"job": 1, "event": "piece", "body": {}}'),
    ],
)
def test_rubbish_ends_the_engine(medgemma_artifact: Path, sent: bytes) -> None:
    async def flooded() -> None:
        async with engines(medgemma_artifact) as made:
            with pytest.raises(EngineDied, match="it wrote what is no answer"):
                await all_of(made.ask("medgemma", does("rubbish", bytes=sent.hex())))

    run(flooded())


DOCUMENTS = st.dictionaries(st.text(max_size=9), st.integers() | st.text() | st.lists(st.floats(allow_nan=False)))
FRAMES = st.lists(st.tuples(DOCUMENTS, st.binary(max_size=300)), max_size=6)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 5000)))
def test_frames_are_the_same_however_they_arrive(frames: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    sent = b"".join(channel.head(document, len(data)) + data for document, data in frames)
    reader, came = channel.Frames(), []
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for begin, end in pairwise(edges):
        came += reader.fed(sent[begin:end])
    pipe = BytesIO(sent)
    assert came == frames == [channel.read(pipe) for _ in frames]
    assert channel.read(pipe) is None


@given(st.binary(max_size=4000))
def test_bytes_that_are_no_frames_are_waited_for_or_refused(sent: bytes) -> None:
    for read in (channel.Frames().fed, lambda sent: channel.read(BytesIO(sent))):
        with suppress(channel.Rubbish):
            assert read(sent) in ([], None)


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_no_memory_is_taken_for_a_frame_that_is_too_large(document: int, data: int) -> None:
    sent = struct.pack(">II", min(document, 2**32 - 1), min(data, 2**32 - 1))
    if document > channel.MOST_DOCUMENT or data > channel.MOST_DATA:
        with pytest.raises(channel.Rubbish):
            channel.Frames().fed(sent)
    elif document or data:
        assert channel.Frames().fed(sent) == []


def test_half_a_frame_is_none(medgemma_artifact: Path) -> None:
    async def half() -> None:
        async with engines(medgemma_artifact) as made:
            with pytest.raises(EngineDied, match="SIGKILL"):
                await all_of(made.ask("medgemma", does("half a frame")))

    run(half())


# ---------------------------------------------------------------- loading


def test_a_model_is_loaded_once_however_many_ask(medgemma_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medgemma_artifact, slots=2) as made:
            assert (made.status("medgemma").state, made.status("medgemma").slots) == ("unloaded", 0)
            await made.start(["medgemma", "medgemma:BF16"])
            await asyncio.gather(*(all_of(made.ask("medgemma", does("echo"))) for _ in range(5)))
            status = made.status("medgemma")
            assert (status.state, status.slots, status.loads, status.problem) == ("ready", 2, 1, None)

    run(asked())


def test_what_cannot_be_loaded_is_said_to_all_who_wait(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)

    async def asked() -> None:
        async with engines(folder) as made:
            name = made.served[0].id
            tasks = [all_of(made.ask(name, does("echo"))) for _ in range(3)]
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert len(set(map(id, errors))) == 3  # one each: whoever raises it adds a trace
            for error in errors:
                assert isinstance(error, EngineFailed)
                assert f"{name} cannot be loaded: " in error.message
                assert "SHA-256" in error.message
                assert f"{folder.name}/" in error.message
                assert str(folder.parent) not in str(error), "clients are not to learn where a model lies"
            status = made.status(name)
            assert (status.state, status.queued, status.pid) == ("failed", 0, None)
            assert "SHA-256" in str(status.problem)
            with pytest.raises(EngineFailed):  # no process is started for it
                await all_of(made.ask(name, does("echo")))
            assert made.status(name).state == "failed"

    with one_bit_changed(next(folder.glob("medgemma-*-BF16.gguf"))):
        run(asked())


def exchange_parts(folder: Path, manifest: dict[str, Any]) -> None:
    one, other, *_ = manifest["variants"].values()
    one["decoder"], other["decoder"] = other["decoder"], one["decoder"]


def exchange_the_tokenizer(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / manifest["tokenizer"]["path"]
    data = path.read_bytes() + b"\n"
    path.unlink()  # it may be another artifact's, too
    path.write_bytes(data)
    for entry in (manifest["tokenizer"], *manifest["support_files"]):
        if entry["path"] == path.name:
            entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def change_the_settings(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["settings"] |= {"stop_token_ids": [1], "stop_tokens": ["<eos>"]}


def change_the_preprocessing(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["preprocessing"]["resample"] = "bicubic"


@pytest.mark.parametrize(
    "exchange", [exchange_parts, exchange_the_tokenizer, change_the_settings, change_the_preprocessing]
)
def test_what_was_exchanged_is_not_taken_for_what_was_served(
    medgemma_artifact: Path, copied: Copy, exchange: Callable[[Path, dict[str, Any]], None]
) -> None:
    folder = copied(medgemma_artifact)
    path = folder / "edgekit.json"
    manifest = json.loads(path.read_text()) | {"foreign": True}  # whose settings are compared with no other file
    path.write_text(json.dumps(manifest))

    async def asked() -> None:
        async with engines(folder) as made:
            name = made.served[0].id
            await all_of(made.ask(name, does("echo")))
            exchange(folder, manifest)
            path.write_text(json.dumps(manifest))
            pid = made.status(name).pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda: made.status(name).pid != pid)
            with pytest.raises(EngineFailed, match="other files or settings than when the server started"):
                await all_of(made.ask(name, does("echo")))

    run(asked())


def test_a_model_whose_file_is_written_into_answers_no_more(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)

    async def asked() -> None:
        async with engines(folder) as made:
            name = made.served[0].id
            await all_of(made.ask(name, does("echo")))
            decoder = next(folder.glob("medgemma-*-BF16.gguf"))
            other = decoder.with_suffix(".new")
            shutil.copy(decoder, other)
            other.replace(decoder)  # what is mapped stays as it was
            await all_of(made.ask(name, does("echo")))

    async def damaged() -> None:
        async with engines(folder) as made:
            name = made.served[0].id
            await all_of(made.ask(name, does("echo")))
            refused = pytest.raises(ArtifactError, match="written into while the model was loaded")
            with one_bit_changed(next(folder.glob("medgemma-*-BF16.gguf"))), refused:
                await all_of(made.ask(name, does("echo")))

    run(asked())
    run(damaged())


def test_a_process_that_never_loads_is_given_up(medgemma_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medgemma_artifact, perform="engine_jobs:nothing") as made:
            with pytest.raises(
                EngineFailed, match=r"its process died 3 times, at last of this: AttributeError at worker\.py:\d+"
            ):
                await all_of(made.ask("medgemma", does("echo")))

    run(asked())


def test_a_kill_while_loading_loses_nothing(medgemma_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medgemma_artifact) as made:
            waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
            await until(lambda: made.status("medgemma").pid is not None)
            os.kill(made.status("medgemma").pid or 0, signal.SIGKILL)
            assert (await waiting)[0].kind == "result"
            assert made.status("medgemma").loads == 1

    run(asked())


class Room:
    """Memory that is not there: so much for all, and what every process takes of it."""

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each, self.asked = total, each, 0

    def __call__(self, processes: Collection[int]) -> int:
        self.asked += 1
        return self.total - self.each * len(processes)


def test_a_device_limits_the_weights_of_all_models(
    medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(one.bytes for one in served([medgemma_artifact, medsiglip_artifact]))
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/small.toml").write_text(
        f"""title = "a small one"
memory_gb = 1
model_memory_gb = {1.2 * largest / 1e9}
cores = 1
bandwidth_gb_s = 1
context = 600
"""
    )
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))

    async def asked() -> None:
        options = EngineOptions(device="small", perform="engine_jobs:misbehave")
        made = Engines(served([medgemma_artifact, medsiglip_artifact], device="small"), options)
        assert made.find("medgemma").context == 600
        for name, other in (("medgemma", "medsiglip"), ("medsiglip", "medgemma")):
            await all_of(made.ask(name, does("echo")))
            assert (made.status(name).state, made.status(other).state) == ("ready", "unloaded")
        await made.close()

    run(asked())


def test_the_least_recently_used_makes_room(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    folders, levels = (medgemma_artifact, medsiglip_artifact), ("BF16", "Q4_0", "fp32")
    room = Room(1_500_000_000, 700_000_000)  # each takes above 540 MB: two find room, a third does not

    async def asked() -> None:
        async with engines(*folders, levels=levels, free=room, slots=1) as made:
            states = lambda: [made.status(one).state for one in made.served]  # noqa: E731
            names = [one.id for one in made.served]
            assert names == ["medgemma:BF16", "medgemma:Q4_0", "medsiglip:fp32"]
            await all_of(made.ask("medgemma:BF16", does("echo")))
            await all_of(made.ask("medsiglip", does("echo")))
            await all_of(made.ask("medgemma:BF16", does("echo")))
            assert states() == ["ready", "unloaded", "ready"]
            await all_of(made.ask("medgemma:Q4_0", does("echo")))
            assert states() == ["ready", "ready", "unloaded"]
            assert made.status("medsiglip").unloads == 1
            async with begun(made, does("wait"), "medgemma:BF16"):
                await all_of(made.ask("medsiglip", does("echo")))  # the other is idle
                assert states() == ["ready", "unloaded", "ready"]

    run(asked())


def test_what_works_is_unloaded_only_when_it_is_done(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    async def asked() -> None:
        room = Room(900_000_000, 700_000_000)
        async with engines(medgemma_artifact, medsiglip_artifact, free=room) as made:
            async with begun(made, does("wait", seconds=3)) as events:
                other = asyncio.create_task(all_of(made.ask("medsiglip", does("echo"))))
                await until(lambda: room.asked > 1)
                late = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
                assert [event.kind async for event in events] == ["result"]
            assert len(await other) == len(await late) == 1
            assert (made.status("medgemma").loads, made.status("medgemma").unloads) == (2, 1)

    run(asked())


def test_what_cannot_fit_unloads_nothing(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    async def asked() -> None:
        room = Room(1_000_000_000, 0)
        async with engines(medgemma_artifact, medsiglip_artifact, free=room) as made:
            await all_of(made.ask("medsiglip", does("echo")))
            room.total = -1_000_000_000
            with pytest.raises(TooLarge, match=r"medgemma:BF16 needs 0\.\d+ GB of memory") as raised:
                await all_of(made.ask("medgemma", does("echo")))
            assert "smaller level" in str(raised.value.remedy)
            assert (made.status("medgemma").state, made.status("medsiglip").state) == ("failed", "ready")

    run(asked())


@pytest.mark.parametrize("slots", [1, 3])
def test_as_many_slots_as_find_room(medgemma_artifact: Path, slots: int) -> None:
    with_slots = [prepare(medgemma_artifact).contexts_bytes(Use(slots=n)) for n in range(1, 6)]
    assert 0 < with_slots[0] < with_slots[1]
    need = Need(served([medgemma_artifact])[0].bytes, tuple(with_slots))
    free = (need.with_slots(slots) + need.with_slots(slots + 1)) // 2

    async def asked() -> int:
        async with engines(medgemma_artifact, free=Room(free, 0), slots=None) as made:
            await all_of(made.ask("medgemma", does("echo")))
            return made.status("medgemma").slots

    assert run(asked()) == slots


def test_files_that_an_engine_has_mapped_are_not_free(tmp_path: Path) -> None:
    """The system counts them as available: it could read them again."""
    (tmp_path / "weights").write_bytes(bytes(300_000_000))
    program = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    print(sum(mapped[at] for at in range(0, len(mapped), 4096)), flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, tmp_path / "weights"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        shared = psutil.Process(process.pid).memory_info().shared
        assert shared > 300_000_000
        gone = max(psutil.pids()) + 1
        least = min(free_bytes([]) - free_bytes([process.pid, gone]) for _ in range(5))
        process.communicate()
    assert least > 100_000_000  # others use memory meanwhile


def test_a_model_without_slots_does_one_thing_at_a_time(medsiglip_artifact: Path) -> None:
    async def asked() -> None:
        async with engines(medsiglip_artifact, slots=4) as made:
            async with begun(made, does("wait"), "medsiglip"):
                other = asyncio.create_task(all_of(made.ask("medsiglip", does("echo"))))
                await until(lambda: made.status("medsiglip").queued == 1)
                assert (made.status("medsiglip").slots, made.status("medsiglip").running) == (1, 1)
            await other

    run(asked())


# ---------------------------------------------------------------- the end


def test_a_draining_server_answers_what_it_has_taken(medgemma_artifact: Path) -> None:
    async def drained() -> None:
        async with engines(medgemma_artifact, slots=1) as made:
            async with begun(made, does("wait", seconds=0.3)) as events:
                waiting = asyncio.create_task(all_of(made.ask("medgemma", does("echo"))))
                await until(lambda: made.status("medgemma").queued == 1)
                draining = asyncio.create_task(made.drain(30))
                await asyncio.sleep(0)
                with pytest.raises(Draining):
                    await all_of(made.ask("medgemma", does("echo")))
                assert [event.kind async for event in events] == ["result"]
            assert (await draining, (await waiting)[0].kind) == (True, "result")

    run(drained())


def test_what_is_not_answered_in_time_is_told_so(medgemma_artifact: Path) -> None:
    async def drained() -> None:
        async with engines(medgemma_artifact, slots=1) as made:
            tasks = [asyncio.create_task(all_of(made.ask("medgemma", does("ignore", seconds=60)))) for _ in range(2)]
            await until(lambda: made.status("medgemma").running == 1)
            loading = asyncio.create_task(all_of(made.ask("medgemma:Q4_0", does("echo"))))
            await until(lambda: made.status("medgemma:Q4_0").pid is not None)
            assert not await made.drain(0.1)
            await made.close()
            results = await asyncio.gather(*tasks, loading, return_exceptions=True)
            assert [type(one) for one in results] == [Draining] * 3

    run(drained())


def test_nothing_is_left(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    async def all_kinds_of_ends() -> None:
        async with engines(medgemma_artifact, medsiglip_artifact) as made:
            await asyncio.gather(*(all_of(made.ask(name, does("echo"))) for name in ("medgemma", "medsiglip")))
            with pytest.raises(EngineDied):
                await all_of(made.ask("medgemma", does("crash")))
            picture = png(photo(64, 48))
            await all_of(made.ask("medgemma", chat("What is it?", image=picture)))
            async with begun(made, does("wait")):
                pass
            await made.start(["medgemma:Q4_0"])  # which is loading when all ends
            await until(lambda: made.status("medgemma:Q4_0").pid is not None)

    before = left_overs()
    run(all_kinds_of_ends())
    until_s = time.monotonic() + 30  # a process's own workers notice its end by themselves
    while left_since(before) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not left_since(before)


def test_engines_end_with_a_server_that_is_killed(medgemma_artifact: Path) -> None:
    program = """
import asyncio, sys, time
from pathlib import Path
from engine_jobs import *
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import EngineOptions

async def main():
    made = Engines(served([Path(sys.argv[1])]), EngineOptions(perform="engine_jobs:misbehave"))
    async for _ in made.ask("medgemma", Job("chat", {"do": "ignore", "seconds": 60})):
        print(made.status("medgemma").pid, flush=True)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program, medgemma_artifact], stdout=subprocess.PIPE) as server:
        assert server.stdout
        engine = psutil.Process(int(server.stdout.readline()))
        family = [engine, *engine.children(recursive=True)]
        server.kill()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_signals_of_a_terminal_leave_engines_alone(medgemma_artifact: Path) -> None:
    async def signalled() -> None:
        async with engines(medgemma_artifact) as made, begun(made, does("wait")) as events:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(made.status("medgemma").pid or 0, number)
            await asyncio.sleep(0.2)
            await all_of(made.ask("medgemma", does("echo")))
            assert made.status("medgemma").restarts == 0
            await events.aclose()

    run(signalled())


# ---------------------------------------------------------------- what is served


def test_what_a_manifest_says_is_served(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    made = Engines(served([medgemma_artifact, medsiglip_artifact]))
    assert [one.id for one in made.served] == [*(f"medgemma:{level}" for level in LEVELS), "medsiglip:fp32"]
    chats, embeds = made.find("medgemma"), made.find("medsiglip")
    assert (chats.id, chats.aliases, chats.default) == ("medgemma:BF16", ("medgemma",), True)
    assert made.find("medgemma:Q4_0").aliases == ()
    assert (chats.modalities, embeds.modalities) == (("text", "image"), ("text", "image"))
    assert "generate" in chats.abilities
    assert "embed_text" in embeds.abilities
    assert (chats.context, embeds.context, embeds.context_limit) == (min(4096, chats.context_limit), 0, 0)
    assert chats.stand_in
    assert chats.license
    assert set(chats.parity.values()) == {None}
    assert len({one.digest for one in made.served}) == 4
    assert chats.bytes == sum(
        file.bytes for part in manifest.read(medgemma_artifact).variant("BF16")[1].values() for file in part.files
    )


def test_chosen_levels_are_served(medgemma_artifact: Path) -> None:
    only = served([medgemma_artifact], ["Q4_0", "Q8_0"], context=99)
    assert [(one.id, one.aliases, one.context) for one in only] == [
        ("medgemma:Q8_0", ("medgemma",), 99),
        ("medgemma:Q4_0", (), 99),
    ]


def test_the_default_level_is_listed_first(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    written = json.loads((folder / manifest.FILE_NAME).read_text())
    (folder / manifest.FILE_NAME).write_text(json.dumps({**written, "default": "Q4_0"}))
    levels = [one.level for one in served([folder])]
    assert levels == ["Q4_0", *(level for level in LEVELS if level != "Q4_0")]


@pytest.mark.parametrize("name", ["medgemma:Q5", "MEDGEMMA", "", "gpt-4o", "medgemma:"])
def test_an_unknown_model(medgemma_artifact: Path, name: str) -> None:
    made = Engines(served([medgemma_artifact]))
    for refused in (made.find, lambda name: made.ask(name, does("echo")), made.status):
        with pytest.raises(UnknownModel, match="unknown model") as raised:
            refused(name)
        assert "medgemma:Q4_0" in str(raised.value.allowed)


def test_what_cannot_be_served(medgemma_artifact: Path, copied: Copy, tmp_path: Path) -> None:
    (tmp_path / "a name").symlink_to(copied(medgemma_artifact))
    spaced = tmp_path / "with space"
    shutil.copytree(medgemma_artifact, spaced)
    twin = shutil.copytree(medgemma_artifact, tmp_path / "twin" / "medgemma")
    wrong: list[tuple[Any, Any, str]] = [
        ([], {}, "no artifact to serve"),
        ([spaced], {}, "its name would be the model's"),
        ([medgemma_artifact, twin], {}, "would both be served as medgemma"),
        ([medgemma_artifact], {"levels": ["Q9"]}, "no artifact here has the level 'Q9'"),
        ([medgemma_artifact], {"context": 10**6}, "a context of 1000000 tokens"),
        ([medgemma_artifact], {"device": "abacus"}, "unknown device"),
    ]
    for folders, options, said in wrong:
        with pytest.raises(UsageError, match=said):
            served(folders, **options)
    next(twin.glob("*-Q4_0.gguf")).unlink()
    with pytest.raises(ArtifactError, match="missing, though the manifest lists it"):
        served([twin])
