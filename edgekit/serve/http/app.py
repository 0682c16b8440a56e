"""The server as one ASGI application: routes and their document, behind the guard, behind the count of what runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from edgekit.errors import EdgekitError
from edgekit.serve.api import openapi
from edgekit.serve.http import answers
from edgekit.serve.http.errors import BadRequest, NoRoute, Refusal, WrongMethod
from edgekit.serve.http.guard import Guard, Rules
from edgekit.serve.http.house import House
from edgekit.serve.http.keys import Keys
from edgekit.serve.http.traffic import CLIENT_LEFT, Traffic


@dataclass(frozen=True)
class Door:
    """Who may come in, as it is given at the start.

    Attributes:
        hosts: see `guard.allowed_hosts`.
        keys: None where nobody needs one.
    """

    hosts: frozenset[str]
    keys: Keys | None = None


def application(api: Sequence[BaseRoute], page: Iterable[BaseRoute], house: House, door: Door) -> Traffic:
    """All of it.

    Args:
        api: what models are asked by.
        page: the page's own files, which need no key.
    """
    page, answered = list(page), [*house.routes(), *api]
    described = openapi.route(answered, needs_key=door.keys is not None)
    app = Starlette(
        routes=[*answered, described, *page],
        exception_handlers={
            EdgekitError: _refused,
            HTTPException: _not_routed,
            ClientDisconnect: _left,
            Exception: _unforeseen,
        },
    )
    app.router.redirect_slashes = False  # an answer that sends a client elsewhere, by the host that it named
    opened = frozenset(str(getattr(route, "path", "")) for route in page)
    rules = Rules(door.hosts, door.keys, opened.__contains__, lambda: house.life.is_draining)
    return Traffic(Guard(app, rules), house.metrics.request)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgekitError)
    return answers.response(error)


async def _not_routed(request: Request, error: Exception) -> Response:
    """What the router raises, in our words; what it says of methods stays."""
    assert isinstance(error, HTTPException)
    base = "POST /v1/chat/completions, or GET /v1/models: the base URL of clients ends in /v1"
    kinds: dict[int, Refusal] = {
        404: NoRoute("there is nothing at this path", remedy=base),
        405: WrongMethod("this path has no such method", allowed=(error.headers or {}).get("Allow", "another")),
    }
    return answers.response(kinds.get(error.status_code, BadRequest("the request cannot be read")), error.headers)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # nobody reads it


async def _unforeseen(request: Request, error: Exception) -> Response:
    return answers.internal_response(error)
