"""A request's body as JSON that has one meaning: no name twice, no NaN, no half character, no depth beyond use."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from edgekit.artifacts.documents import json_value
from edgekit.serve.http.errors import BadJson

MOST_ENTRIES = 500_000  # names and values, and punctuation of texts: an empty list takes twenty times its text
_LARGE = 256 << 10  # bytes whose parsing would hold up others' tokens for milliseconds


async def read_json(request: Request) -> Any:
    """What the body of a request says. How large it may be is a matter of the protocol, before anything is kept.

    Raises:
        BadJson: it is no JSON, or has more than one meaning.
        ClientDisconnect: the client left before all of it came.
    """
    raw = await request.body()
    return await asyncio.to_thread(parsed, raw) if len(raw) > _LARGE else parsed(raw)


def parsed(raw: bytes) -> Any:
    """What JSON says.

    Raises:
        BadJson: it is none, or has more than one meaning.
    """
    if not raw.strip(b" \t\r\n"):
        raise BadJson("the request has no body", allowed="JSON")
    return json_value(raw, "the request's body", BadJson, most_entries=MOST_ENTRIES)
