"""Where the names of patients end up that a server was told, in a process of its own.

    python http_canaries_job.py JOB ANSWER

`folder` and `level` are an artifact's; `count` names are made up.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from http_client import CHAT, asked, message
from http_servers import Running, sent_to, serving


def canaries(job: dict[str, Any]) -> dict[str, Any]:
    """`count` made-up names of patients, through every route and every way to be refused: in which files they are.

    Those are all that the server could write: its log, its cache, its temporary files, its home, and the artifact's.
    """
    names = list(itertools.islice(_names(), job["count"]))
    statuses: Counter[int] = Counter()

    async def run(server: Running) -> None:
        turn = asyncio.Semaphore(16)

        async def one(number: int, name: str) -> None:
            async with turn:
                answer = await asked(server.port, _canary(server, number, name), 5)
                statuses[answer.status] += 1

        await asyncio.gather(*(one(number, name) for number, name in enumerate(names)))

    with serving(job, slots=2, queue=64) as server:
        asyncio.run(run(server))
        metrics = asyncio.run(_metrics(server))
        largest = max(server.process.children(recursive=True), key=lambda one: one.memory_info().rss)
        dying = message(CHAT, server.chat(names[0], 500))
        made = sent_to(server, dying)
        time.sleep(0.5)
        largest.kill()
        made.close()
        time.sleep(1)
        server.process.terminate()
        psutil.wait_procs([server.process], 60)
        found, files = [], 0
        for path in [*server.wrote.rglob("*"), *Path(job["folder"]).rglob("*")]:
            if path.is_file():
                files += 1
                found += _names_in(path.read_bytes(), names, str(path.name))
        found += _names_in(metrics, names, "/metrics")
    return {"names": len(names), "statuses": dict(statuses), "files": files, "found": found[:20]}


async def _metrics(server: Running) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(message("/metrics", method="GET").replace(b"HOST", b"127.0.0.1:%d" % server.port))
    text = await reader.read()
    writer.close()
    return text


def _canary(server: Running, number: int, name: str) -> bytes:
    """A request that holds a name somewhere: in a question, a field, a path, a header, or in what cannot be read."""
    chat = server.chat(name, 1)
    model = {"model": server.model}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;name={name};base64,AAAA"}}
    tool = {"type": "function", "function": {"name": name.replace("'", "_")[:60], "description": name}}
    every: tuple[Callable[[], bytes], ...] = (
        lambda: message(CHAT, chat),
        lambda: message(CHAT, {**chat, "stream": True}),
        lambda: message(CHAT, {**chat, "user": name, "stop": [name]}),
        lambda: message(CHAT, {**chat, "tools": [tool]}),
        lambda: message(CHAT, {**chat, "response_format": {"type": name}}),
        lambda: message(CHAT, {**chat, "model": name}),
        lambda: message(CHAT, {**chat, name: name}),
        lambda: message(CHAT, {**chat, "messages": [{"role": name, "content": name}]}),
        lambda: message(CHAT, {**chat, "messages": [{"role": "user", "content": [image]}]}),
        lambda: message(CHAT, {**chat, "messages": [{"role": "user", "content": f"{name} " * 4000}]}),
        lambda: message(CHAT, f'{{"messages": "{name}'.encode()),
        lambda: message("/v1/completions", {**model, "prompt": name, "max_tokens": 1}),
        lambda: message("/v1/responses", {**model, "input": name, "max_output_tokens": 1}),
        lambda: message("/v1/embeddings", {**model, "input": name}),
        lambda: message("/v1/classify", {**model, "labels": [name], "images": [name]}),
        lambda: message("/v1/images", {**model, "image": name}),
        lambda: message("/tokenize", {**model, "content": name}),
        lambda: message("/detokenize", {**model, "tokens": [name]}),
        lambda: message(f"/v1/images/{name.replace(' ', '%20')}", method="DELETE"),
        lambda: message(f"/v1/models/{name.replace(' ', '%20')}", method="GET"),
        lambda: message(f"/{name.replace(' ', '%20')}?{name.replace(' ', '%20')}", method="GET"),
        lambda: message("/health", method="GET", headers={"User-Agent": name, "Referer": name, "Cookie": name}),
        lambda: message("/health", method="GET", headers={"Host": name}),
        lambda: message(CHAT, chat, headers={"Authorization": f"Bearer {name}", "Content-Type": name}),
        lambda: name.encode() + b"\r\n\r\n",
    )
    return every[number % len(every)]()


def _names() -> Iterator[str]:
    """Names that no text has by chance, none of them anybody's: syllables, a different row of them each."""
    syllables = ("zor", "quev", "thal", "mirx", "bund", "jask", "plof", "wext", "grin", "voz")
    for parts in itertools.product(syllables, repeat=6):
        yield f"{''.join(parts[:3]).capitalize()} {''.join(parts[3:]).capitalize()}"


def _names_in(data: bytes, names: list[str], where: str) -> list[str]:
    """Either half of a name counts: an address may have had it in another form."""
    text = data.lower()
    return [f"{where}: {name}" for name in names if name.split()[1].lower().encode() in text]


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(canaries(given)), encoding="utf-8")
