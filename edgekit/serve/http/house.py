"""The routes that are about the server itself: /health, /metrics, /props, /terms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgekit.artifacts.version import __version__
from edgekit.serve.engines.pool import Engines
from edgekit.serve.http import answers, terms
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.metrics import Metrics

_SOON = {"retry-after": "5"}


@dataclass
class Life:
    """Where a server is between its start and its end.

    Attributes:
        state: while it loads what is loaded ahead, it answers already, and slowly; while it drains, nothing new.
    """

    state: Literal["loading", "ready", "draining"] = "loading"

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing more."""
        return self.state == "draining"


@dataclass(frozen=True)
class House:
    """What these routes speak of.

    Attributes:
        needs_key: whether all but /health need an API key.
        agreement: as in `terms.document`.
    """

    engines: Engines
    metrics: Metrics
    life: Life
    limits: Limits
    needs_key: bool = False
    agreement: str | None = None

    def routes(self) -> list[Route]:
        """All of them."""
        given: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/props": self._props,
            "/terms": self._terms,
        }
        return [Route(path, answer, methods=["GET"]) for path, answer in given.items()]

    async def _health(self, request: Request) -> Response:
        state: str = self.life.state
        if state == "ready":
            states = {self.engines.status(model).state for model in self.engines.served}
            wrong = states - {"unloaded"}
            state = min(wrong) if wrong and wrong <= {"failed", "hanging"} else "ok"
        return _json({"status": state}, 200, None) if state == "ok" else _json({"status": state}, 503, _SOON)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _props(self, request: Request) -> Response:
        states = [(model, self.engines.status(model)) for model in self.engines.served]
        figures = ("state", "slots", "queued", "running")
        models = [{"id": model.id, **{name: getattr(state, name) for name in figures}} for model, state in states]
        said = {
            "version": __version__,
            "state": self.life.state,
            "needs_key": self.needs_key,
            "limits": asdict(self.limits),
            "models": models,
        }
        return _json(said)

    async def _terms(self, request: Request) -> Response:
        return _json(terms.document(self.engines.served, self.agreement))


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answers.encoded(document), status, headers, media_type="application/json")
