"""The API on a real socket, over real engines, for tests of its routes and of clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from edgekit.errors import EdgekitError
from edgekit.serve.api import routes
from edgekit.serve.api.serving import Serving
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import EngineOptions
from edgekit.serve.http import answers

_START_S = 60


class Server:
    """One that runs in a thread of its own.

    Attributes:
        url: where it listens.
        serving: what its routes have at hand; its engines belong to the server's event loop.
    """

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        app = Starlette(routes=routes(serving), exception_handlers={EdgekitError: _refused})
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", http="h11", lifespan="off"))
        self._thread = threading.Thread(target=self._run, name="api-server")
        self.url = ""

    def start(self) -> None:
        """Listen, in this moment or soon."""
        self._thread.start()
        for _ in range(_START_S * 100):
            if self._server.started:
                break
            self._thread.join(0.01)
        (port,) = {socket.getsockname()[1] for server in self._server.servers for socket in server.sockets}
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """Close everything."""
        self._server.should_exit = True
        self._thread.join()

    def running(self, name: str = "medgemma") -> int:
        """How many jobs an engine has."""
        status = self.serving.engines.status(name)
        return status.running + status.queued

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._server.serve()
        finally:
            await self.serving.engines.close()


@contextmanager
def api_server(folders: Sequence[Path], **options: Any) -> Iterator[Server]:
    """A server of artifacts, with two slots and a context of 4096."""
    chosen = EngineOptions(**{"slots": 2, "context": 4096, **options})
    server = Server(Serving(Engines(served(folders, context=chosen.context), chosen)))
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgekitError)
    return answers.response(error)
