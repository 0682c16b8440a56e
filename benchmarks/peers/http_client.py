"""What asks a server over raw sockets: many at once, in one loop, noting when what came, and leaving when they want."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
_TIMEOUT_S = 600


@dataclass
class Answered:
    """One request's answer.

    Attributes:
        status: 0 where none came.
        status_s: from the request to the end of its head.
        pieces_s: from the request to each piece of text of a stream.
        whole_s: from the request to the answer's last byte.
        events: of a stream, or the one document of another answer.
        ended: whether its last byte came.
    """

    status: int = 0
    status_s: float = 0.0
    pieces_s: list[float] = field(default_factory=list)
    whole_s: float = 0.0
    events: list[Any] = field(default_factory=list)
    ended: bool = False

    @property
    def error(self) -> str | None:
        """The code of the error that it ended in."""
        last = self.events[-1] if self.events else None
        said = last.get("error") if isinstance(last, dict) else None
        return (str(said.get("code")) if isinstance(said, dict) else "an error") if said else None

    @property
    def timings(self) -> Mapping[str, float]:
        """What the server says that its engine took."""
        return next((event["timings"] for event in reversed(self.events) if event.get("timings")), {})


def message(path: str, document: Any = None, method: str = "POST", headers: Mapping[str, str] | None = None) -> bytes:
    """A request; `HOST` in a header is filled in by `ask`."""
    body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
    given = {"Host": "HOST", "Connection": "close"}
    given |= {"Content-Type": "application/json", "Content-Length": str(len(body))} if document is not None else {}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**given, **(headers or {})}.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


async def ask(port: int, sent: bytes, leave_after_s: float | None = None) -> Answered:
    """Send a request, and read its answer or leave in the middle of it, without a word.

    Raises:
        OSError: there is no connection.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = Answered()
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S if leave_after_s is None else leave_after_s):
            writer.write(sent.replace(b"HOST", b"127.0.0.1:%d" % port, 1))
            await writer.drain()
            await _read(reader, found, began)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        pass  # it left, or was left: `ended` says so
    finally:
        writer.transport.abort()
    return found


async def asked(port: int, sent: bytes, leave_after_s: float | None = None) -> Answered:
    """As `ask`; where there is no connection, the answer has no status."""
    try:
        return await ask(port, sent, leave_after_s)
    except OSError:
        return Answered()


def outcome(answer: Answered, leaves: bool = False) -> str:
    """`answered`, `cancelled` where its client was to leave, a refusal's status, or how it was lost."""
    if answer.status in (429, 503):
        return str(answer.status)
    if answer.ended and answer.status == 200:
        return "503" if answer.error else "answered"
    if leaves and not answer.ended:
        return "cancelled"
    return f"lost: {answer.status}, {answer.error}"


async def _read(reader: asyncio.StreamReader, found: Answered, began: float) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    found.status, found.status_s = int(head[0].split(" ")[1]), time.perf_counter() - began
    headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    if "text/event-stream" in headers.get("content-type", ""):
        await _events(reader, found, began, "chunked" in headers.get("transfer-encoding", ""))
    else:
        length = headers.get("content-length")
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join([chunk async for chunk in _chunks(reader)])
        else:
            body = await (reader.readexactly(int(length)) if length else reader.read())
        if "json" in headers.get("content-type", "") and body:
            found.events.append(json.loads(body))
    found.ended, found.whole_s = True, time.perf_counter() - began


async def _events(reader: asyncio.StreamReader, found: Answered, began: float, chunked: bool) -> None:
    rest = b""
    async for data in _chunks(reader) if chunked else _plain(reader):
        now = time.perf_counter() - began
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                found.events.append(json.loads(line[6:]))
                if _text(found.events[-1]):
                    found.pieces_s.append(now)


def _text(event: Any) -> str:
    choices = event.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or choices[0].get("text") or "")


async def _plain(reader: asyncio.StreamReader) -> Any:
    while data := await reader.read(1 << 16):
        yield data


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
