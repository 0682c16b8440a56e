"""Answers as they come, and clients that leave: whoever does not wait any more gets nothing computed.

A stream begins with its first event, or after a second without one: until then an error still has its own status. What
fails later is the stream's last event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgekit.errors import EdgekitError
from edgekit.serve.api.given_up import GivenUp
from edgekit.serve.http import answers
from edgekit.serve.jobs import Event

PING_S = 5.0  # of silence: proxies and clients end a connection that says nothing
FIRST_S = 1.0
_LEFT = Response(status_code=499)  # nobody reads it

T = TypeVar("T")
Frames = AsyncGenerator[bytes, None]


def frame(document: Any, event: str | None = None) -> bytes:
    """One event of a stream."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(document, separators=(',', ':'))}\n\n".encode("ascii")


DONE, PING = b"data: [DONE]\n\n", b": ping\n\n"


async def unless_left(
    given_up: GivenUp, request: Request, work: Callable[[], Coroutine[Any, Any, Response]]
) -> Response:
    """What the work gives; it is cancelled when the client leaves, and not begun where that would happen again."""
    await given_up.check(request)
    working = asyncio.ensure_future(work())
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            answer = working.result()
            await given_up.answered(request)
            return answer
        await given_up.note(request)
        return _LEFT
    finally:
        await _ended(leaving)
        await _ended(working)


async def stream(request: Request, frames: Frames, failed: Callable[[dict[str, Any]], bytes] = frame) -> Response:
    """A response of frames that has begun, or its first error, raised.

    Args:
        frames: of a stream.
        failed: the frame of an error's body.
    """
    beginning = asyncio.ensure_future(_next(frames))
    leaving = asyncio.ensure_future(_left(request.receive))
    begun = False
    try:
        await asyncio.wait({beginning, leaving}, timeout=FIRST_S, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            return _LEFT
        if beginning.done():
            beginning.result()  # or its error, while there is a status to say it by
        begun = True
        return _EventStream(frames, beginning, failed)
    finally:
        await _ended(leaving)
        if not begun:
            await _closed(frames, beginning)


class _EventStream(Response):
    """Sends frames, a ping in every silence, and ends with its client."""

    def __init__(
        self, frames: Frames, first: asyncio.Task[bytes | None], failed: Callable[[dict[str, Any]], bytes]
    ) -> None:
        super().__init__(
            headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type="text/event-stream"
        )
        del self.headers["content-length"]
        self._frames, self._pending, self._failed = frames, first, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(scope, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _ended(leaving)
            await _ended(sending)
            await _closed(self._frames, self._pending)

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for data in self._with_pings():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except EdgekitError as error:
            said = answers.body(error)
            scope[answers.CODE] = said["error"]["code"]
            await send({"type": "http.response.body", "body": self._failed(said), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _with_pings(self) -> AsyncIterator[bytes]:
        while True:
            done, _ = await asyncio.wait({self._pending}, timeout=PING_S)
            if not done:
                yield PING
                continue
            data = self._pending.result()
            if data is None:
                return
            yield data
            self._pending = asyncio.ensure_future(_next(self._frames))


async def finished(events: AsyncGenerator[Event, None], each: Callable[[Event], object]) -> None:
    """All events of a job, one after the other."""
    async with aclosing(events):
        async for event in events:
            each(event)


async def result(events: AsyncGenerator[Event, None]) -> tuple[Event, list[str]]:
    """The one answer of a job that does not stream, and its warnings."""
    warnings: list[str] = []
    found: Event | None = None
    async with aclosing(events):
        async for event in events:
            if event.kind == "warning":
                warnings.append(event.body["text"])
            else:
                found = event
    assert found is not None, "such a job has one result, or raises"
    return found, warnings


async def _next(frames: Frames) -> bytes | None:
    return await anext(frames, None)


async def _closed(frames: Frames, pending: asyncio.Future[Any]) -> None:
    """What was to come is not computed."""
    await _ended(pending)
    await frames.aclose()


async def _left(receive: Receive) -> None:
    """Until the client is gone; all that it sends has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancelled, and over; what it failed of has been said, or interests nobody any more."""
    task.cancel()
    with suppress(asyncio.CancelledError, EdgekitError):
        await task
