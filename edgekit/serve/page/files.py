"""The page's files as routes, with headers that let a browser run these files and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PREFIX = "/page/"

_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Text of a model can never become a script: there are no inline ones, and markup cannot be made of a string at all.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # the image that the user chose
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # kept, and asked for by its ETag: a new version shows at once
}


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, path: Traversable) -> _File:
        content = path.read_bytes()
        suffix = path.name[path.name.rindex(".") :]
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, {**HEADERS, "Content-Type": _TYPES[suffix], "ETag": etag})


def routes() -> list[Route]:
    """The page at `/` and each of its files below `PREFIX`, read once: no request names a path on the disk.

    They hold nothing of a user's and are to be had without a key, which the page asks for itself.
    """
    found = dict(_walk(files(__package__) / "static"))
    paths = {"/" if name == _INDEX else PREFIX + name: _File.read(path) for name, path in found.items()}
    return [_route(path, file) for path, file in paths.items()]


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    """Every file below a folder, by its relative name."""
    names: list[tuple[str, Traversable]] = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = prefix + path.name
        names += _walk(path, f"{name}/") if path.is_dir() else [(name, path)]
    return names


def _route(path: str, file: _File) -> Route:
    async def answer(request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
        if known & {file.headers["ETag"], "*"}:
            return Response(status_code=304, headers=dict(file.headers))
        return Response(file.content, headers=dict(file.headers))

    return Route(path, answer, methods=["GET"])
