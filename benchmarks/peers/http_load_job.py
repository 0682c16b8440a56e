"""What a server does under load and ill will, in a process of its own: python http_load_job.py JOB ANSWER.

`kind` is one of the functions below; `server`, `folder` and `level` as in `http_cost_job.py`, and what each of them
takes. All numbers drawn are the same in every run, and every loop is bounded.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from http_client import CHAT, ask, asked, message, outcome
from http_servers import Running, sent_to, serving, settled, until


def load(job: dict[str, Any]) -> dict[str, Any]:
    """`clients` at once send `requests` in all; one in eight leaves in the middle. How each ended, and what is held.

    They begin within the first `pause_s`, and who is refused comes again within that time. Memory is looked at after
    the first tenth, which warms up, and at each further one.
    """
    draw = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    refused: list[float] = []
    held: list[dict[str, int]] = []
    numbers = itertools.count()

    async def client(server: Running) -> None:
        await asyncio.sleep(draw.uniform(0, job["pause_s"]))
        while (number := next(numbers)) < job["requests"]:
            stream, leaves = number % 2 == 0, number % 8 == 7
            sent = message(CHAT, server.chat(f"{number}: what is a cough?", job["tokens"], stream=stream))
            answer = await asked(server.port, sent, draw.uniform(0, 0.5) if leaves else None)
            outcomes[outcome(answer, leaves)] += 1
            if answer.status in (429, 503):
                refused.append(answer.status_s)
                await asyncio.sleep(draw.uniform(0, job["pause_s"]))
            if number % max(job["requests"] // 10, 1) == 0 and number:
                held.append(server.held())

    async def run(server: Running) -> None:
        await asyncio.gather(*(client(server) for _ in range(job["clients"])))

    with serving(job, slots=job["slots"], queue=job["queue"]) as server:
        asyncio.run(run(server))
        settled(server)
        held.append(server.held())
    return {"outcomes": dict(outcomes), "refused_ms": _quantiles(refused), "held": held}


def hostile(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of good clients' requests alone, and beside `sockets` slow or hostile ones."""

    async def good(server: Running) -> list[float]:
        times: list[float] = []

        async def one(client: int) -> None:
            for number in range(max(1, job["requests"] // job["clients"])):
                sent = message(CHAT, server.chat(f"{client} {number}", job["tokens"]))
                answer = await ask(server.port, sent)
                if answer.status != 200:
                    raise SystemExit(f"a good client was refused: {answer.status} {answer.events}")
                times.append(answer.whole_s)

        await asyncio.gather(*(one(client) for client in range(job["clients"])))
        return times

    async def run(server: Running) -> dict[str, Any]:
        await good(server)
        alone = await good(server)
        async with _ill_will(server, job["sockets"]) as sent:
            beside = await good(server)
        return {"alone_ms": _quantiles(alone), "beside_ms": _quantiles(beside), "sent": sent[0]}

    with serving(job, slots=job["clients"], queue=64) as server:
        return asyncio.run(run(server))


@asynccontextmanager
async def _ill_will(server: Running, sockets: int) -> AsyncIterator[list[int]]:
    """Sockets that hold on, each in one of seven ways, and come again when they are thrown out."""
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    head = b"POST " + CHAT.encode() + b" HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n"
    large = json.dumps(server.chat("x" * 4000, 200, stream=True)).encode()
    ways: tuple[tuple[bytes, bytes], ...] = (
        (b"", b""),  # says nothing
        (b"GET /v1/models HTTP/1.1\r\n" + host, b"X: y\r\n"),  # headers without end
        (b"GET /v1/mo", b"d"),  # a path, letter by letter
        (head + b"Content-Length: 100000\r\n\r\n", b" "),  # a body, byte by byte
        (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"e" * 500 + b"\r\n \r\n"),  # chunks of extensions
        (b"\x16\x03\x01\x02\x00\x01\x00", b"\x00"),  # TLS
        (head + b"Content-Length: %d\r\n\r\n" % len(large) + large, b""),  # never reads
    )
    sent = [0]

    async def hold(way: tuple[bytes, bytes]) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
                try:
                    writer.write(way[0])
                    while not reader.at_eof() and not writer.transport.is_closing():
                        sent[0] += 1
                        writer.write(way[1])
                        await asyncio.sleep(1)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.5)

    # The one that never reads takes a slot: two are enough.
    chosen = [ways[number % 6] for number in range(max(sockets - 2, 0))] + [ways[6]] * min(2, sockets)
    tasks = [asyncio.create_task(hold(way)) for way in chosen]
    try:
        await asyncio.sleep(2)
        yield sent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def disconnects(job: dict[str, Any]) -> dict[str, Any]:
    """`count` clients that leave: while an answer streams, while they wait for their turn, while they upload.

    Seconds until nothing runs or waits for them, and what the server held before and afterwards.
    """
    draw = np.random.default_rng(0)
    freed: dict[str, list[float]] = {"streaming": [], "waiting": [], "uploading": []}
    with serving(job, slots=1, queue=8) as server:
        for _ in range(3):
            asyncio.run(ask(server.port, message(CHAT, server.chat("Warm up.", 4))))
        before = server.held()
        for number in range(job["count"]):
            way = list(freed)[number % 3]
            freed[way].append(_left(server, way, number, draw.uniform(0.01, 0.3)))
        settled(server)
        time.sleep(1)
        after = server.held()
    return {"freed_s": {way: _quantiles(times, 1) for way, times in freed.items()}, "before": before, "after": after}


def _left(server: Running, way: str, number: int, after_s: float) -> float:
    question = message(CHAT, server.chat(f"{number}: what is a cough?", 3500, stream=True))
    ahead = sent_to(server, question) if way == "waiting" else None
    sent = question[: len(question) // 2] if way == "uploading" else question
    made = sent_to(server, sent)
    until(lambda: way == "uploading" or server.engine()[1:] == (1, int(way == "waiting")))
    time.sleep(after_s)
    if number % 2:  # a reset, where the others say that they end
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    began = time.perf_counter()
    made.close()
    # An answer ahead, however long, may have ended by itself.
    until(lambda: server.engine()[1:] in ((int(ahead is not None), 0), (0, 0)))
    took = time.perf_counter() - began
    if ahead:
        ahead.close()
        settled(server)
    return took


def kills(job: dict[str, Any]) -> dict[str, Any]:
    """The engine is killed `count` times under load, each after a life of `life_s`: how requests ended, and how soon
    it was back. A life below a minute makes the server wait longer each time, on purpose.
    """
    outcomes: Counter[str] = Counter()
    back: list[float] = []
    running = [0]
    ended = False

    async def client(server: Running, client: int) -> None:
        for number in itertools.count():
            if ended:
                return
            sent = message(CHAT, server.chat(f"{client} {number}", job["tokens"], stream=number % 2 == 0))
            outcomes[outcome(await asked(server.port, sent), leaves=False)] += 1

    async def run(server: Running) -> None:
        nonlocal ended
        tasks = [asyncio.create_task(client(server, number)) for number in range(job["clients"])]
        for _ in range(job["count"]):
            await asyncio.sleep(job["life_s"])
            back.append(await asyncio.to_thread(_kill, server, running))
        ended = True
        await asyncio.gather(*tasks)

    with serving(job, slots=job["slots"], queue=64) as server:
        asyncio.run(run(server))
        started = server.started_s
    return {"outcomes": dict(outcomes), "back_s": back, "started_s": started, "in_flight": running[0]}


def _kill(server: Running, running: list[int]) -> float:
    engines = server.process.children(recursive=True)
    largest = max(engines, key=lambda one: one.memory_info().rss)
    running[0] += server.engine()[1]
    began = time.perf_counter()
    largest.kill()
    until(lambda: not psutil.pid_exists(largest.pid) or largest.status() == psutil.STATUS_ZOMBIE)
    until(lambda: server.engine()[0] != "ready")
    until(lambda: server.engine()[0] == "ready")
    return time.perf_counter() - began


def _quantiles(seconds: list[float], scale: float = 1e3) -> dict[str, float]:
    """Median, p99 and greatest, in milliseconds unless another scale is given."""
    if not seconds:
        return {"n": 0}
    found = {f"p{share}": float(np.percentile(seconds, share)) * scale for share in (50, 99, 100)}
    return {"n": len(seconds), **found}


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    one.__name__: one for one in (load, hostile, disconnects, kills)
}

if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(KINDS[given["kind"]](given)), encoding="utf-8")
