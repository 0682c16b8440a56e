"""A server for tests: the real front door on a real socket, before routes that need no model."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from edgekit.serve.http import answers, app, guard
from edgekit.serve.http.house import House, Life
from edgekit.serve.http.json_body import read_json
from edgekit.serve.http.keys import Keys
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.metrics import Metrics, measured
from edgekit.serve.http.server import Plan, Server, listen
from edgekit.serve.jobs import Event, Job

QUICK = Limits(head_s=0.6, body_s=0.6, keep_alive_s=0.6, write_s=0.6, linger_s=0.5, tick_s=0.05, body_rate=1000)
LICENCE = "HAI-DEF is provided under the Health AI Developer Foundations Terms of Use"


@dataclass(frozen=True)
class Model:
    """What the front door looks at of a model that is served."""

    id: str = "medgemma:Q4_0"
    title: str = "MedGemma"
    license: str = LICENCE
    stand_in: str | None = "a stand-in"


@dataclass(frozen=True)
class State:
    state: str = "ready"
    slots: int = 2
    queued: int = 1
    running: int = 0
    restarts: int = 3


@dataclass
class Engines:
    """Answers of ten pieces, one every few milliseconds."""

    served: tuple[Model, ...] = (Model(),)
    pause_s: float = 0.02
    left: int = 0
    state: str = "ready"
    drained: bool = field(default=False)

    def find(self, name: str) -> Model:
        return self.served[0]

    def status(self, served: Model) -> State:
        return State(self.state)

    async def ask(
        self, served: Model, job: Job, begins: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Event, None]:
        begins()
        try:
            for number in range(10):
                await asyncio.sleep(self.pause_s)
                yield Event("piece", {"text": f"piece {number} ", "number": 0})
            yield Event("answer", {"output_tokens": 10, "decode_s": 0.5})
        except (GeneratorExit, asyncio.CancelledError):
            self.left += 1
            raise

    async def drain(self, seconds: float) -> bool:
        self.drained = True
        return True

    async def close(self) -> None:
        pass


def routes(engines: Engines, metrics: Metrics) -> list[Route]:
    """What a client may do: say JSON, get an answer in pieces, make a mistake happen, get much."""

    async def echo(request: Request) -> Response:
        return Response(answers.encoded(await read_json(request)), media_type="application/json")

    async def stream(request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            async for event in measured(engines.ask(engines.served[0], Job("chat", {})), engines.served[0].id, metrics):
                yield answers.encoded(dict(event.body)) + b"\n"

        return StreamingResponse(pieces())

    async def broken(request: Request) -> Response:
        raise ValueError((await request.body()).decode())

    async def much(request: Request) -> Response:
        async def blocks() -> AsyncGenerator[bytes, None]:
            for _ in range(10_000):
                MUCH.append(1)
                yield bytes(64 << 10)
                await asyncio.sleep(0)

        return StreamingResponse(blocks())

    async def page(request: Request) -> Response:
        return Response(b"<!doctype html>", media_type="text/html")

    return [
        Route("/v1/echo", echo, methods=["POST"]),
        Route("/v1/stream", stream, methods=["POST"]),
        Route("/v1/broken", broken, methods=["POST"]),
        Route("/v1/much/{what}", much, methods=["GET"]),
        Route("/", page, methods=["GET"]),
    ]


MUCH: list[int] = []  # blocks of 64 KB that were made


@dataclass(frozen=True)
class Door:
    """A server that runs in a thread."""

    port: int
    server: Server
    engines: Engines
    house: House
    app: app.Traffic
    routes: list[BaseRoute]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self, timeout: float = 20.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def send(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """What comes back for these bytes, to the end of the connection or of the first answer."""
        with self.connect() as client:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer is there
                client.sendall(raw)
            return answer(client)

    def request(self, line: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.send(self.raw(line, body, **headers))

    def raw(self, line: str, body: bytes = b"", **headers: str) -> bytes:
        """A good request as bytes; `content_type` and its like name headers, and replace what stands there anyway."""
        every = {"host": self.host}
        if line.startswith("POST"):
            every |= {"content-type": "application/json", "content-length": str(len(body))}
        every |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in every.items())
        return f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers, body; a status of 0 for a connection that ended without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        block = client.recv(65536)
        if not block:
            return 0, {}, received
        received += block
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    chunked = headers.get("transfer-encoding") == "chunked"
    while not (body.endswith(b"0\r\n\r\n") if chunked else len(body) >= int(headers.get("content-length", 0))):
        block = client.recv(65536)
        if not block:
            break
        body += block
    return int(first.split()[1]), headers, body


@contextmanager
def door(
    limits: Limits = QUICK,
    keys: Keys | None = None,
    engines: Engines | None = None,
    drain_s: float = 5,
    host: str = "127.0.0.1",
) -> Iterator[Door]:
    """A server that is ready."""
    engines = engines or Engines()
    life = Life()
    metrics = Metrics(engines)
    house = House(engines, metrics, life, limits, keys is not None, "the agreement")
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        *api, page = routes(engines, metrics)
        rules = app.Door(guard.allowed_hosts(host, port, ["clinic.local"]), keys)
        whole = app.application(api, [page], house, rules)
        server = Server(whole, life, engines, Plan(lambda: asyncio.sleep(0), drain_s, limits))
        thread = threading.Thread(target=lambda: asyncio.run(server.run_on(listening)))
        thread.start()
        try:
            until = time.monotonic() + 20
            while life.state == "loading" and time.monotonic() < until:
                time.sleep(0.01)
            yield Door(port, server, engines, house, whole, [*house.routes(), *api, page])
        finally:
            server.end()
            server.end()
            thread.join(20)
            assert not thread.is_alive()
