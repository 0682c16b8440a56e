"""Runs an application on a socket of its own, and ends it gently: what runs may finish, what comes is told to wait."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from edgekit.errors import UsageError
from edgekit.serve.engines.pool import Engines
from edgekit.serve.http import answers
from edgekit.serve.http.house import Life
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.protocol import FrontDoor, Shared
from edgekit.serve.http.traffic import Traffic

_LOG = logging.getLogger("edgekit.serve")
_BACKLOG = 1024
_GRACE_S = 2.0  # for answers that end because the time to drain is over
_FILES_KEPT = 128  # of those a process may have open, for everything but connections


def is_loopback(host: str) -> bool:
    """Whether an address is only reached from this machine.

    Raises:
        UsageError: it is no address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as problem:
        allowed = "an address of this machine, 0.0.0.0 for all of them, or localhost"
        raise UsageError(f"--host {host!r:.80} is no address", allowed=allowed) from problem


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        UsageError: the port is in use or not allowed, or the address is none of this machine's.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio sends small answers at once, without waiting for more, on sockets that say that they are TCP's.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(_BACKLOG)
    except OSError as problem:
        made.close()
        if problem.errno == errno.EADDRINUSE:
            remedy = "another --port; 0 takes a free one"
            raise UsageError(f"port {port} of {host} is in use", remedy=remedy) from problem
        said = f"cannot listen on port {port} of {host}: {problem.strerror}"
        raise UsageError(said, allowed="an address of this machine, and a port above 1023") from problem
    made.setblocking(False)
    return made


@dataclass(frozen=True)
class Plan:
    """How a server begins and ends.

    Attributes:
        preload: loads what is to be there before it says that it is ready; errors are the later requests'.
        drain_s: for how long what runs may finish.
        limits: of what clients send.
    """

    preload: Callable[[], Awaitable[None]]
    drain_s: float
    limits: Limits


class Server(uvicorn.Server):
    """uvicorn's server, behind `FrontDoor`; `end` ends it.

    Args:
        app: whose running requests are waited for.
        life: what the application knows of this server's state.
        engines: drained with it.
    """

    def __init__(self, app: Traffic, life: Life, engines: Engines, plan: Plan) -> None:
        protocol: Any = functools.partial(FrontDoor, limits=within_open_files(plan.limits), shared=Shared(app.refused))
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=2 * plan.limits.head_bytes,
            )
        )
        self._app, self._life, self._engines, self._plan = app, life, engines, plan
        self._asked_to_end = 0
        self._draining: asyncio.Task[None] | None = None
        self._until = 0.0

    @property
    def was_forced(self) -> bool:
        """Whether it was told to end a second time."""
        return self._asked_to_end > 1

    def end(self) -> None:
        """Drain and end; asked a second time, end now. Any thread may ask, and a signal's handler."""
        self._asked_to_end += 1
        if self.was_forced:
            self.force_exit = self.should_exit = True

    async def run_on(self, listening: socket.socket) -> None:
        """Serve until `end`, and close the engines."""
        asyncio.get_running_loop().set_exception_handler(_unforeseen)
        loading = asyncio.create_task(self._load())
        try:
            await self.serve(sockets=[listening])
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await self._engines.close()

    async def _load(self) -> None:
        await self._plan.preload()
        if self._life.state == "loading":
            self._life.state = "ready"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the command, which calls `end`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to end."""
        ended = await super().on_tick(counter)
        return ended or (self._asked_to_end > 0 and self._is_drained())

    def _is_drained(self) -> bool:
        """Whether nothing runs any more, or the time for it is over. Clients are told to wait until then."""
        now = asyncio.get_running_loop().time()
        if self._draining is None:
            self._life.state = "draining"
            self._draining = asyncio.create_task(self._drain())
            self._until = now + self._plan.drain_s + _GRACE_S
            _LOG.info(
                "ending; %d requests may go on for up to %g s, a second signal ends them",
                self._app.running,
                self._plan.drain_s,
            )
        return now >= self._until or (self._draining.done() and not self._app.running)

    async def _drain(self) -> None:
        await self._engines.drain(self._plan.drain_s)
        await self._engines.close()  # while there is still a socket to tell those that ran for longer


def _unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no task of the application caught; asyncio's own words would quote its arguments."""
    if error := context.get("exception"):
        answers.internal(error)


def within_open_files(limits: Limits) -> Limits:
    """Limits with no more connections than this process may have files open, which it raises as far as it may."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows counts no files
        return limits
    import dataclasses

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _FILES_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return dataclasses.replace(limits, connections=max(1, min(limits.connections, soft - _FILES_KEPT)))
    return limits
