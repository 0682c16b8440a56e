"""What runs and what was answered: counted, and logged by method, route and status, never by what was asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.errors import EdgekitError
from edgekit.serve.http import answers

_LOG = logging.getLogger("edgekit.serve")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # any word is a method
_PROBED = ("/health", "/metrics")  # by programs, every few seconds
_OK = 200
CLIENT_LEFT = 499  # as others write it, in logs and metrics alone


@dataclass(frozen=True)
class Answered:
    """One request, when it has ended.

    Attributes:
        route: the template that its path matched, or "-".
        code: which error was its answer, or the end of it; None for none.
    """

    method: str
    route: str
    status: int
    seconds: float
    code: str | None = None


class Traffic:
    """An application whose requests are counted and logged.

    Attributes:
        running: requests that have no whole answer yet.
    """

    def __init__(self, app: ASGIApp, on_answered: Callable[[Answered], None]) -> None:
        self._app, self._on_answered = app, on_answered
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and note how it did."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, whole = time.perf_counter(), CLIENT_LEFT, False

        async def noted(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        self.running += 1
        try:
            await self._app(scope, receive, noted)
        finally:
            self.running -= 1
            seconds = time.perf_counter() - began
            method = scope["method"] if scope["method"] in _METHODS else "other"
            status = status if whole else CLIENT_LEFT
            self._note(Answered(method, route_of(scope), status, seconds, scope.get(answers.CODE)))

    def refused(self, error: EdgekitError) -> None:
        """Note a request that was refused before it came here, as far as it was one."""
        code = answers.body(error)["error"]["code"]
        self._note(Answered("-", "-", answers.status(error), 0.0, code))

    def _note(self, done: Answered) -> None:
        self._on_answered(done)
        level = logging.DEBUG if done.route in _PROBED and done.status == _OK else logging.INFO
        said = f"{done.status} {done.code}" if done.code else str(done.status)
        _LOG.log(level, "%s %s %s %.1f ms", done.method, done.route, said, 1000 * done.seconds)


def route_of(scope: Scope) -> str:
    """The template of the route that a request matched; never its path, which a client chose."""
    return str(getattr(scope.get("route"), "path", None) or "-")
