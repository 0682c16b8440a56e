"""Every error as one answer: THE table from its type to a status, and to OpenAI's words for it.

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": "bad_json"}}

A type that is not in the table has its nearest ancestor's row; what is no EdgekitError is an internal error, of which a
client is told a number to ask about, and the log where in the code it was.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgekit import errors as base
from edgekit.errors import EdgekitError
from edgekit.serve.engines import errors as engines
from edgekit.serve.http import errors

_LOG = logging.getLogger("edgekit.serve")
CODE = "edgekit.code"  # in a request's scope: which error answered it, for the log
_INVALID = "invalid_request_error"
_SERVER = "server_error"


@dataclass(frozen=True)
class Row:
    """What one type of error becomes.

    Attributes:
        type: as OpenAI's clients know it.
        code: which error exactly, for programs.
    """

    status: int
    type: str
    code: str


ROWS: Mapping[type[BaseException], Row] = {
    errors.BadRequest: Row(400, _INVALID, "bad_request"),
    errors.BadJson: Row(400, _INVALID, "bad_json"),
    errors.NoKey: Row(401, "authentication_error", "invalid_api_key"),
    errors.WrongHost: Row(403, "permission_error", "host_not_allowed"),
    errors.WrongOrigin: Row(403, "permission_error", "origin_not_allowed"),
    errors.NoRoute: Row(404, _INVALID, "not_found"),
    errors.WrongMethod: Row(405, _INVALID, "method_not_allowed"),
    errors.TooSlow: Row(408, _INVALID, "request_timeout"),
    errors.BodyTooLarge: Row(413, _INVALID, "body_too_large"),
    errors.TargetTooLong: Row(414, _INVALID, "path_too_long"),
    errors.WrongType: Row(415, _INVALID, "unsupported_media_type"),
    errors.WrongExpectation: Row(417, _INVALID, "expectation_failed"),
    errors.HeadTooLarge: Row(431, _INVALID, "headers_too_large"),
    errors.UnknownCoding: Row(501, _INVALID, "transfer_encoding_not_implemented"),
    errors.Full: Row(503, _SERVER, "server_full"),
    errors.Draining: Row(503, _SERVER, "server_draining"),
    errors.WrongVersion: Row(505, _INVALID, "http_version_not_supported"),
    engines.UnknownModel: Row(404, _INVALID, "model_not_found"),
    engines.Poisoned: Row(422, _INVALID, "request_ends_engines"),
    engines.Busy: Row(429, "rate_limit_error", "queue_full"),
    engines.Draining: Row(503, _SERVER, "server_draining"),
    engines.EngineDied: Row(503, _SERVER, "engine_died"),
    engines.TooLarge: Row(503, _SERVER, "model_too_large"),
    engines.EngineFailed: Row(503, _SERVER, "engine_failed"),
    engines.EngineError: Row(503, _SERVER, "engine_unavailable"),
    base.TooLongError: Row(400, _INVALID, "context_length_exceeded"),
    base.InputError: Row(400, _INVALID, "invalid_input"),
    base.UsageError: Row(400, _INVALID, "invalid_value"),
    base.WorkerError: Row(503, _SERVER, "engine_unavailable"),
    base.MissingDependencyError: Row(503, _SERVER, "engine_unavailable"),
    base.ArtifactError: Row(503, _SERVER, "artifact_unusable"),
    base.EdgekitError: Row(500, _SERVER, "internal_error"),
}


def row(error: BaseException) -> Row | None:
    """The row of an error, its type's or the nearest ancestor's; None for one that nobody foresaw."""
    return next((ROWS[kind] for kind in type(error).__mro__ if kind in ROWS), None)


def status(error: BaseException) -> int:
    """The status of an error's answer."""
    found = row(error)
    return found.status if found else 500


def body(error: EdgekitError) -> dict[str, Any]:
    """An error as OpenAI writes one: as a whole answer, or in a stream whose status has been sent."""
    found = row(error)
    assert found, "the table has EdgekitError itself"
    said = [error.message, *(f"- {item}" for item in error.items)]
    said += [f"allowed: {error.allowed}"] if error.allowed else []
    said += [f"try: {error.remedy}"] if error.remedy else []
    return {"error": {"message": "; ".join(said), "type": found.type, "param": error.param, "code": found.code}}


def headers(error: BaseException) -> dict[str, str]:
    """What an error's answer says in its head: when to come again, and how to identify oneself."""
    said: dict[str, str] = {}
    if (seconds := getattr(error, "retry_after_s", None)) is not None:
        said["retry-after"] = str(max(1, math.ceil(seconds)))
    if isinstance(error, errors.NoKey):
        said["www-authenticate"] = "Bearer"
    return said


def encoded(document: Any) -> bytes:
    """JSON as it is sent; half characters, which no encoding has, stay escapes."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")


class _ErrorResponse(Response):
    """An error's body, whose code the request's scope keeps."""

    def __init__(self, document: Mapping[str, Any], status_code: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(encoded(document), status_code, headers, media_type="application/json")
        self._code = document["error"]["code"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CODE] = self._code
        await super().__call__(scope, receive, send)


def response(error: EdgekitError, more: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that ended in an error.

    Args:
        more: headers on top.
    """
    said = {**headers(error), **(more or {})}
    return _ErrorResponse(body(error), status(error), said)


def internal(error: BaseException) -> dict[str, Any]:
    """An error that nobody foresaw, for a client: a number, and nothing else; the log has where in the code it was.

    What such an error says may quote a question, so only its type and the lines of code are written down.
    """
    number = secrets.token_hex(4)
    places = "".join(f"\n  {place}" for place in _places(error))
    _LOG.error("internal error %s: %s%s", number, type(error).__name__, places)
    said = f"internal error {number}; the server's log has it under this number"
    return {"error": {"message": said, "type": _SERVER, "param": None, "code": "internal_error"}}


def internal_response(error: BaseException) -> Response:
    """`internal` as a whole answer."""
    return _ErrorResponse(internal(error), 500)


def _places(error: BaseException | None) -> Iterator[str]:
    """The lines of code that an error came through, and those of its causes; never a value."""
    while error is not None:
        for frame in traceback.extract_tb(error.__traceback__):
            yield f"{frame.filename}:{frame.lineno} in {frame.name}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if error is not None:
            yield f"behind {type(error).__name__}"
