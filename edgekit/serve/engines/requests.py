"""A job on its way, and what came of it, as whoever asked takes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable
from functools import cached_property

from edgekit.errors import EdgekitError
from edgekit.serve.engines.channel import WINDOW, Rubbish
from edgekit.serve.jobs import Event, Job

# What needs no sequence of the decoder, and is done while all slots are taken.
LIGHT = frozenset({"tokenize", "detokenize"})

Begins = Callable[[], None]


def begins_unheard() -> None:
    """For who need not know when a job begins."""


class Request:
    """One job, from its queue to its end.

    Attributes:
        number: names it in frames.
        begins: to be called when the engine is given it.
        cancelled: whoever asked has left.
        began: the loop's time at which the engine was given it; None while it waits.
    """

    def __init__(self, number: int, job: Job, begins: Begins) -> None:
        self.number, self.job, self.begins = number, job, begins
        self.cancelled = False
        self.began: float | None = None
        self._events: deque[Event] = deque()
        self._ended = False
        self._failure: EdgekitError | None = None
        self._news = asyncio.Event()
        self._taken = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it asks: what crashes an engine once will do so again."""
        hashed = hashlib.sha256(json.dumps([self.job.kind, self.job.body], sort_keys=True).encode())
        for image in self.job.images:
            hashed.update(len(image).to_bytes(8, "big") + image)
        return hashed.hexdigest()

    @property
    def is_light(self) -> bool:
        """Whether it needs no slot."""
        return self.job.kind in LIGHT

    def add(self, event: Event) -> None:
        """What the engine said. Raises Rubbish where it says more than it was allowed to."""
        if len(self._events) >= WINDOW or self._ended:
            raise Rubbish("more events than there is room for")
        if not self.cancelled:
            self._events.append(event)
            self._news.set()

    def end(self, failure: EdgekitError | None = None) -> None:
        """Nothing comes any more; with what whoever asked is told behind what has come."""
        if not self._ended:
            self._ended, self._failure = True, failure
            self._news.set()

    async def next(self) -> Event | None:
        """The next event, as soon as there is one; None at the end. Raises what the job ended with."""
        while not self._events:
            if self._failure:
                raise self._failure
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        self._taken += 1
        return self._events.popleft()

    def taken(self) -> int:
        """How many events more were taken, as soon as the engine should know; 0 before."""
        if self._taken < WINDOW // 2:
            return 0
        count, self._taken = self._taken, 0
        return count
