"""uvicorn's HTTP protocol with what it lacks: bytes checked before they are parsed, time-outs, and bounded memory.

Every byte goes through `Wire` first. A look at each connection, once a second, ends those that send nothing, or too
slowly, or do not read their answer. A client whose request is refused gets a status and one sentence, and the time to
read it: what it still sends is thrown away for a moment, since a socket closed over unread bytes resets the connection
and takes the answer with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgekit.serve.http import answers
from edgekit.serve.http.errors import BadRequest, Draining, Full, Refusal, TooSlow
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.wire import Wire

# On every answer, of the application and of this file; the page has a content security policy of its own.
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Lingering:
    """A transport as uvicorn sees it: it closes as `FrontDoor` does."""

    def __init__(self, transport: asyncio.Transport, door: FrontDoor) -> None:
        self._transport, self._door = transport, door

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """End the connection, when the client has read what it was sent."""
        self._door.close_gently()

    def is_closing(self) -> bool:
        """Whether it has begun to."""
        return self._door.has_ended or self._transport.is_closing()


@dataclass
class Shared:
    """What all connections of one server have in common.

    Attributes:
        on_refused: told what is refused before the application sees it, or all of it.
        body_bytes: of requests that have no whole answer yet.
    """

    on_refused: Callable[[Refusal], None]
    body_bytes: int = 0


class FrontDoor(H11Protocol):
    """One connection.

    Args:
        limits: its bounds.
        shared: with all other connections.
    """

    def __init__(self, *, limits: Limits, shared: Shared, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.timeout_keep_alive = limits.keep_alive_s  # type: ignore[assignment]  # uvicorn hands it to call_later
        self._limits, self._shared = limits, shared
        self._wire = Wire(limits)
        self._look: asyncio.TimerHandle | None = None
        self._phase_s = self._quiet_s = self._unread_s = 0.0
        self._since = self.loop.time()
        self._phase = self._wire.phase
        self._mine = 0  # of the bytes held
        self._answered = 0  # requests
        self._refusal: Refusal | None = None  # of a request behind the one that is being answered
        self._ended = False
        self._thrown_away = 0

    @property
    def waits(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def has_ended(self) -> bool:
        """Whether nothing that it still sends is read."""
        return self._ended

    @property
    def waited_s(self) -> float:
        """For how long it has been between requests, or in the midst of one's head."""
        return self.loop.time() - self._since

    # Of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or end the one that has waited longest for its client, where there are too many."""
        self._socket = transport
        super().connection_made(cast(asyncio.Transport, _Lingering(transport, self)))
        self._look = self.loop.call_later(self._limits.tick_s, self._look_at)
        if len(self.connections) > self._limits.connections:
            others = [one for one in self.connections if isinstance(one, FrontDoor) and one.waits and one is not self]
            longest = max(others, key=lambda one: one.waited_s, default=self)
            longest._refuse(Full("the server has as many connections as it can hold"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what it held."""
        if self._look:
            self._look.cancel()
        self._unset_keepalive_if_required()
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what is a good request so far."""
        if self._ended or self._refusal:
            self._throw_away(len(data))
            return
        self._quiet_s = 0.0
        self._unset_keepalive_if_required()
        passed, refusal = self._wire.feed(data)
        if self._wire.phase != self._phase:
            self._phase, self._phase_s, self._since = self._wire.phase, 0.0, self.loop.time()
        if passed:
            super().data_received(passed)
            if not self.waits:  # else it is thrown away: the answer did not need it
                self._hold(len(passed))
        if refusal:
            self._refuse(refusal)
        elif self._phase == "body" and self._shared.body_bytes > self._limits.bodies_bytes:
            self._refuse(Full("the server has as much to read as it can hold"))

    # Of uvicorn

    def _should_upgrade(self) -> bool:
        return False  # a client that offers another protocol is answered in this one

    def send_400_response(self, msg: str) -> None:
        """What h11 refuses on top of what `Wire` does: where it is a body's framing, nobody may wait for the rest."""
        self._refuse(BadRequest("this is no HTTP request"), of_body=not self.waits and self.cycle.more_body)

    def on_response_complete(self) -> None:
        """Go on to the next request, or say why not."""
        self._release()
        self._answered += 1
        super().on_response_complete()
        if self._refusal:
            self._refuse(self._refusal)

    def shutdown(self) -> None:
        """At the server's end: close it, with a word where a request had begun to come."""
        if self.waits and self._phase != "idle" and not self._ended:
            self._refuse(Draining("the server is ending"))
        elif not self._ended:
            super().shutdown()

    # Of its own

    def close_gently(self) -> None:
        """Close at once, or where a request still comes, when its client has had the time to read the answer."""
        if self._ended:
            return
        self._ended = True
        if self._phase == "body":
            self._linger()
        else:
            self._socket.close()

    def _hold(self, size: int) -> None:
        self._mine += size
        self._shared.body_bytes += size

    def _release(self) -> None:
        self._shared.body_bytes -= self._mine
        self._mine = 0

    def _refuse(self, refusal: Refusal, *, of_body: bool = False) -> None:
        """Answer with an error, and end the connection: what comes behind a bad request has no certain beginning.

        Args:
            of_body: whether it is about the body of the request that is being answered, whatever comes on the wire.
        """
        if self._ended or self._socket.is_closing():
            return
        of_this = of_body or (self._phase == "body" and self._wire.requests <= self._answered + 1)
        if not self.waits and not of_this:
            self._refusal = refusal  # the request before it is still being answered
            self.flow.pause_reading()
            return
        self._ended = True
        self._release()
        begun = of_this and self.cycle is not None and self.cycle.response_started
        if not self.waits:
            self.cycle.disconnected = True  # to the application it is a client that left
            self.cycle.message_event.set()
            if begun:
                self._socket.abort()
                return
        if not begun:
            self._socket.write(_written(refusal))
            self._shared.on_refused(refusal)
        self._linger()

    def _linger(self) -> None:
        """Say that nothing more comes, and throw away for a moment what the client still sends."""
        if self._socket.can_write_eof():
            with contextlib.suppress(OSError):  # a client that has left already
                self._socket.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(self._limits.linger_s, self._socket.abort)

    def _throw_away(self, size: int) -> None:
        self._thrown_away += size
        if self._thrown_away > self._limits.body_bytes:
            self._socket.abort()

    def _look_at(self) -> None:
        """Once a tick: end what takes too long."""
        limits = self._limits
        self._look = self.loop.call_later(limits.tick_s, self._look_at)
        # Bytes that the client has not read: of an answer that stalls, or of one that is whole, on a closing socket.
        stalled = self.flow.write_paused or self._socket.is_closing()
        self._unread_s = self._unread_s + limits.tick_s if stalled else 0.0
        if self._unread_s >= limits.write_s:
            self._socket.abort()
        elif not self._ended and not self.flow.read_paused:  # else it is the application that does not read
            self._phase_s += limits.tick_s
            self._quiet_s += limits.tick_s
            self._check_time()

    def _check_time(self) -> None:
        limits = self._limits
        if self._phase == "idle":
            if self.cycle is None and self._phase_s >= limits.head_s:
                self.close_gently()
        elif self._phase == "head":
            if self.waits and self._phase_s >= limits.head_s:
                self._refuse(TooSlow("the request's headers came too slowly", allowed=f"{limits.head_s:g} s"))
        elif self._quiet_s >= limits.body_s:
            self._refuse(TooSlow(f"nothing of the request's body came for {limits.body_s:g} s"))
        elif self._phase_s >= limits.body_s and self._wire.body_received < limits.body_rate * self._phase_s:
            allowed = f"{limits.body_rate} bytes a second"
            self._refuse(TooSlow("the request's body came too slowly", allowed=allowed))


def _written(refusal: Refusal) -> bytes:
    """A whole answer as bytes."""
    content = answers.encoded(answers.body(refusal))
    status = HTTPStatus(answers.status(refusal))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
        **SECURITY_HEADERS,
        **answers.headers(refusal),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode("ascii") + content
