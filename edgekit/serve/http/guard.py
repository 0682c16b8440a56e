"""Who may come in: the first thing that a request meets, before any route reads a byte of its body.

A server on one's own machine is within reach of every page that one's browser shows. Such a page can send requests to
it, and a name that it rebinds to this address can even read the answers. So a request must name this server as its
host, no other site's page may have sent it, what is sent is JSON, which a page cannot send to a stranger without asking
first, and nobody who asks is told yes: there are no CORS headers.

Where there are API keys, everything needs one but /health and the page's own files, which hold no secret. The page asks
its user for the key, keeps it in memory, and sends it as every client does: `Authorization: Bearer KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.errors import UsageError
from edgekit.serve.http import answers
from edgekit.serve.http.errors import BadRequest, Draining, NoKey, Refusal, WrongHost, WrongOrigin, WrongType
from edgekit.serve.http.keys import Keys
from edgekit.serve.http.protocol import SECURITY_HEADERS

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - listened on, but nobody's address, and pages reach it past some browsers
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HTTP = 80
_JSON = re.compile(rb"application/json[ \t]*(?:;[ \t]*charset=\"?utf-8\"?[ \t]*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffd]")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?")
_SENT = ("POST",)  # of no other method does a route here read a body


@dataclass(frozen=True)
class Rules:
    """Who may come in.

    Attributes:
        hosts: every name, with its port where it has one, that the server answers to.
        keys: None where nobody needs one.
        is_open: whether a path needs no key.
        is_draining: whether the server takes nothing more.
    """

    hosts: frozenset[str]
    keys: Keys | None
    is_open: Callable[[str], bool]
    is_draining: Callable[[], bool] = lambda: False


def allowed_hosts(host: str, port: int, names: Iterable[str] = ()) -> frozenset[str]:
    """All that a Host header may be: the loopback's names, the address that is listened on, and names given.

    Args:
        names: with a port of their own, as behind a proxy, or without: then this server's, or none.

    Raises:
        UsageError: one is no name of a host.
    """
    bare = [*LOOPBACK, *([] if host in EVERYWHERE else [f"[{host}]" if ":" in host else host])]
    allowed = {f"{name.lower()}:{port}" for name in bare}
    allowed |= {name.lower() for name in bare} if port == _HTTP else set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r:.80} is no host's name", allowed="as clinic.local or 10.0.0.5, without http://")
        with_port = re.search(r":\d+\Z", name)
        allowed |= {name.lower()} if with_port else {name.lower(), f"{name.lower()}:{port}"}
    return frozenset(allowed)


class Guard:
    """An application behind `Rules`; its answers have the security headers that they do not set themselves."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            more = {"connection": "close"} if isinstance(refusal, Draining) else None
            await answers.response(refusal, more)(scope, receive, secured)
            return
        await self._app(scope, receive, secured)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if _CONTROL.search(scope["path"]):
            raise BadRequest("the request's path holds what no path has")
        host = _host(headers)
        if not (host in self._rules.hosts or host == _own_address(scope)):
            raise WrongHost(
                "the request was sent to a host name that this server does not answer to",
                remedy="the URL that the server printed, or start it with --allow-host NAME",
            )
        _check_origin(headers, host, scope["method"])
        is_health = scope["path"] == "/health"
        if not (is_health or self._rules.is_open(scope["path"])):
            self._check_key(headers)
        if self._rules.is_draining() and not is_health:
            raise Draining("the server is ending, and takes no more requests")
        if scope["method"] in _SENT and _sends(headers):
            _check_type(headers)

    def _check_key(self, headers: dict[bytes, list[bytes]]) -> None:
        if not self._rules.keys:
            return
        given = headers.get(b"authorization", [])
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        if scheme.lower() != b"bearer" or not self._rules.keys.allow(key.strip()):
            said = "a wrong API key" if given else "no API key"
            if len(given) == 1 and scheme.lower() != b"bearer":
                said = "an Authorization header that does not begin with Bearer"
            raise NoKey(said, allowed="Authorization: Bearer KEY, with a key of the server's key file")


def _host(headers: dict[bytes, list[bytes]]) -> str:
    """The one host that a request names."""
    hosts = headers.get(b"host", [])
    if len(hosts) != 1:
        raise BadRequest(f"the request has {'two Host headers' if hosts else 'no Host header'}", allowed="exactly one")
    return hosts[0].decode("latin-1").lower()


def _own_address(scope: Scope) -> str:
    """The address that the client connected to, as a Host header: a number cannot be rebound as a name can."""
    address, port = scope["server"]
    shown = f"[{address}]" if ":" in address else address
    return shown if port == _HTTP else f"{shown}:{port}"


def _check_origin(headers: dict[bytes, list[bytes]], host: str, method: str) -> None:
    """Refuse what a page of another site made a browser send."""
    sites = headers.get(b"sec-fetch-site", [])
    foreign = any(site not in (b"same-origin", b"same-site", b"none") for site in sites)
    if method not in ("GET", "HEAD"):
        foreign |= b"same-site" in sites  # a neighbour under the same domain, or another port of this machine
    # Browsers that do not send the above send this with all but GET.
    origins = [origin.decode("latin-1").partition("://")[2].lower() for origin in headers.get(b"origin", [])]
    foreign |= any(origin != host for origin in origins)
    if foreign:
        raise WrongOrigin("another site's page sent the request", remedy="use the server's own page, or a program")


def _sends(headers: dict[bytes, list[bytes]]) -> bool:
    """Whether a request has a body, or says what it would be: one without has no type that could be wrong."""
    lengths = headers.get(b"content-length", [b"0"])
    return lengths != [b"0"] or b"transfer-encoding" in headers or b"content-type" in headers


def _check_type(headers: dict[bytes, list[bytes]]) -> None:
    types = headers.get(b"content-type", [])
    if len(types) != 1 or not _JSON.fullmatch(types[0]):
        is_file = bool(types) and types[0].lower().startswith((b"image/", b"multipart/", b"application/octet-stream"))
        remedy = 'an image as JSON: {"image": "data:image/png;base64,..."}, to /v1/images' if is_file else None
        said = "the request's Content-Type is not JSON's"
        raise WrongType(said, allowed="application/json, in UTF-8", remedy=remedy)
    if any(coding.lower() != b"identity" for coding in headers.get(b"content-encoding", [])):
        raise WrongType("the request's body is compressed", remedy="send it without a Content-Encoding")
