"""Requests that their client gave up: OpenAI's clients ask again by themselves when their time-out is over.

The second answer would take as long as the first, so it would be given up as well, and the third: each is computed for
nobody, while others wait. So what is asked again is refused, with what to do about it, where the same request was given
up lately and whoever repeats it waits no longer than that. Who waits longer, or asked and was told to come again, is
answered. So is whose time went by in the queue, or while the model was loaded: the next time may be theirs.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request

from edgekit.errors import UsageError

_MOST, _SECONDS = 1000, 600.0
_NEARLY = 0.9  # of a time-out, which a client counts from earlier on
_AGAIN, _TIME_OUT = "x-stainless-retry-count", "x-stainless-read-timeout"


class GivenUp:
    """Which requests were given up lately, by their digest, and after how long.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._given_up: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # when, and the time-out

    async def check(self, request: Request) -> None:
        """Raise UsageError where a request repeats one whose time was over."""
        if request.headers.get(_AGAIN, "0") == "0":
            return
        limit = _number(request.headers.get(_TIME_OUT, ""))
        when, waited = self._given_up.get(await _digest(request), (-_SECONDS, 0.0))
        if limit is not None and limit <= waited and self._clock() - when < _SECONDS:
            raise UsageError(
                "the client's time-out ended this request before its answer was finished, and so it would again",
                remedy="stream the answer, ask for fewer tokens, or have the client wait longer: timeout=3600",
            )

    def begins(self, request: Request) -> None:
        """An engine begins to compute a request's answer; what waited until then was not the answer's fault."""
        if not hasattr(request.state, "began"):
            request.state.began = self._clock()

    async def note(self, request: Request) -> None:
        """A client left: was the answer computed for as long as it waits?"""
        limit = _number(request.headers.get(_TIME_OUT, ""))
        computed = self._clock() - getattr(request.state, "began", self._clock())
        if limit is None or computed < _NEARLY * limit:
            return
        self._given_up[await _digest(request)] = self._clock(), limit
        while len(self._given_up) > _MOST:
            self._given_up.popitem(last=False)

    async def answered(self, request: Request) -> None:
        """It was answered in time, so it would be again."""
        if self._given_up:
            self._given_up.pop(await _digest(request), None)


async def _digest(request: Request) -> bytes:
    return hashlib.sha256(request.url.path.encode() + b"\0" + await request.body()).digest()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
