"""One model of the server: its queue, its slots, and a process that is started again when it dies."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from edgekit.errors import EdgekitError, InputError
from edgekit.serve.engines.channel import Frame, Rubbish
from edgekit.serve.engines.child import Child
from edgekit.serve.engines.errors import Busy, Draining, EngineDied, EngineFailed, Poisoned
from edgekit.serve.engines.requests import Request
from edgekit.serve.engines.room import MOST_SLOTS, Need
from edgekit.serve.engines.served import Served
from edgekit.serve.engines.state import Delay, EngineOptions, State, Status
from edgekit.serve.engines.suspects import Suspects
from edgekit.serve.jobs import Event, EventKind, Job, raised

_KINDS = frozenset(get_args(EventKind))
_LIGHT_AT_ONCE = 4
_FAILED_S = 5.0  # for so long everybody is told that the model cannot be loaded; who asks then has it tried again


class Died(Exception):  # noqa: N818 - whoever loads the engine catches it
    """The process died before the model was loaded."""


class Engine:
    """A model that gives one answer after the other, or several at once.

    Args:
        served: the model.
        options: how it is run.
        wanted: called when it should be loaded; who hears that calls `open`, after `delay`.

    Attributes:
        need: what it holds in memory, None while it has no process.
        used: the loop's time at which it last began or ended a job.
        draining: nothing more is taken.
    """

    def __init__(self, served: Served, options: EngineOptions, wanted: Callable[[Engine], None]) -> None:
        self.served, self._options, self._wanted = served, options, wanted
        self.need: Need | None = None
        self.used, self.draining, self.delay = 0.0, False, Delay()
        self._state: State = "unloaded"
        self._slots = self._restarts = self._loads = self._unloads = 0
        self._numbers = itertools.count(1)
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}
        self._suspects = Suspects()
        self._child: Child | None = None
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # of the process, before it is ready
        self._retiring = False
        self._idle, self._done = asyncio.Event(), asyncio.Event()
        self._settle()
        self._ready_at, self._typical_s, self._answered = 0.0, 1.0, False
        self._failed: tuple[float, EngineFailed] | None = None
        self._fault = ""  # what the process said of its own end

    @property
    def status(self) -> Status:
        """How it is now."""
        problem = self._failed[1].message if self._failed else None
        counts = (len(self._waiting), len(self._running), self._restarts, self._loads, self._unloads)
        return Status(self._state, self._slots, *counts, problem, self._child.pid if self._child else None)

    @property
    def is_idle(self) -> bool:
        """Whether its process works on nothing."""
        return not self._running

    @property
    def held_bytes(self) -> int:
        """Memory that its process may take, as it was counted; 0 where there is none."""
        return self.need.with_slots(max(self._slots, 1)) if self.need else 0

    async def done(self) -> None:
        """Wait until nobody waits for anything of it."""
        await self._done.wait()

    async def ask(self, job: Job) -> AsyncGenerator[Event, None]:
        """What comes of a job, as it comes. Closing this gives the job up, which frees its slot.

        Raises:
            EngineError: it was not done, see `edgekit.serve.engines.errors`.
            EdgekitError: what the engine raised.
        """
        request = self._enter(job)
        try:
            while (event := await request.next()) is not None:
                if (count := request.taken()) and self._child and request.number in self._running:
                    self._child.send({"job": request.number, "took": count})
                yield event
        finally:
            self._leave(request)

    # ------------------------------------------------------------ who waits, and who begins

    def _enter(self, job: Job) -> Request:
        request = Request(next(self._numbers), job)
        if self.draining:
            raise Draining("the server is about to end and takes no more requests", remedy="ask again in a minute")
        if self._suspects.is_poisoned(request):
            raise _poisoned()
        if self._failed and _now() < self._failed[0] + _FAILED_S:
            raise self._failed[1]
        if request.is_light and self._can_begin(request):
            self._begin(request)
            return request
        self._waiting.append(request)
        self._done.clear()
        self.pump()
        if len(self._waiting) > self._options.queue and request.began is None:
            self._waiting.remove(request)
            raise self._busy()
        return request

    def _busy(self) -> Busy:
        waiting = len(self._waiting)
        after = max(1, math.ceil(self._typical_s * (waiting + 1) / max(self._slots, 1)))
        message = f"{waiting} requests wait for {self.served.id}, as many as may"
        return Busy(message, remedy=f"ask again in {after} s", retry_after_s=after)

    def _leave(self, request: Request) -> None:
        """Whoever asked has all of it, or has gone."""
        if request.number in self._running:
            request.cancelled = True
            if self._child:
                self._child.send({"job": request.number, "cancel": True})
        elif request in self._waiting:
            self._waiting.remove(request)
            self.pump()  # it may have been what all behind it waited for
            self._settle()

    def pump(self) -> None:
        """Give the process what waits, as far as it can take it; have it loaded where it is not."""
        if self._waiting and self._state in ("unloaded", "failed") and not self._retiring:
            self._wanted(self)
        while self._waiting and self._can_begin(self._waiting[0]):
            self._begin(self._waiting.popleft())

    def _can_begin(self, request: Request) -> bool:
        if self._state != "ready" or self._retiring:
            return False
        running = self._running.values()
        if self._suspects.is_suspect(request) and not self._suspects.is_poisoned(request):
            return not running
        if any(map(self._suspects.is_suspect, running)):
            return False
        alike = sum(other.is_light == request.is_light for other in running)
        return alike < (_LIGHT_AT_ONCE if request.is_light else self._slots)

    def _begin(self, request: Request) -> None:
        assert self._child, "ready"
        if self._suspects.is_poisoned(request):  # by another that asked the same
            request.end(_poisoned())
            return
        job = request.job
        document = {"job": request.number, "kind": job.kind, "body": job.body, "images": list(map(len, job.images))}
        try:
            self._child.send(document, job.images)
        except Rubbish:
            request.end(InputError("the request is too large", allowed="512 MB of images, 64 MB of the rest"))
            return
        self.used = request.began = _now()
        self._running[request.number] = request
        self._idle.clear()
        self._done.clear()

    # ------------------------------------------------------------ what the process says

    def _arrived(self, frames: Sequence[Frame]) -> None:
        for document, data in frames:
            try:
                self._heard(document, data)
            except (KeyError, TypeError, AttributeError) as error:
                raise Rubbish(f"a frame without what it needs: {type(error).__name__}") from error
        self.pump()

    def _heard(self, document: dict[str, Any], data: bytes) -> None:
        if "fault" in document:
            self._fault = f"{document['fault']:.200}"
            return
        if "job" not in document:
            if self._state == "ready" or self._said.qsize() > 1:
                raise Rubbish("words that nobody waits for")
            self._said.put_nowait(document)
            return
        request = self._running[document["job"]]
        if "event" in document:
            if document["event"] not in _KINDS or not isinstance(document["body"], dict):
                raise Rubbish("no event")
            request.add(Event(document["event"], document["body"], data))
            return
        request.end(raised(document["error"]) if "error" in document else None)
        self._ended(request)

    def _ended(self, request: Request) -> None:
        del self._running[request.number]
        self.used = _now()
        assert request.began is not None, "it ran"
        if not request.cancelled:
            self._suspects.went_well(request)
            self._answered = True
            self._typical_s += 0.2 * (self.used - request.began - self._typical_s)
        self._settle()

    def _settle(self) -> None:
        """Wake who waits for the end of all that is under way."""
        if not self._running:
            self._idle.set()
            if not self._waiting:
                self._done.set()

    def _died(self, child: Child, how: str) -> None:
        """The process is gone. Those in flight are lost; who waits goes on waiting for the next process."""
        if child is not self._child:  # it was closed
            return
        self._child, self.need = None, None
        if self._state != "ready":
            self._said.put_nowait(None)
            return
        self._restarts += 1
        self.delay.died(_now() - self._ready_at, answered=self._answered)
        self._state = "restarting"
        lost = list(self._running.values())
        self._suspects.crashed(lost)
        self._running.clear()
        self._settle()
        after = max(1, math.ceil(self.delay.seconds))
        for request in lost:
            request.end(
                EngineDied(
                    f"the engine of {self.served.id} died at this request, or at one beside it: {self._fault or how}",
                    remedy="ask again: a request that it dies of once more is refused from then on",
                    retry_after_s=after,
                )
            )
        if not self.draining or self._waiting:
            self._wanted(self)

    # ------------------------------------------------------------ load and unload

    async def open(self, room: Callable[[Need], Awaitable[int]]) -> None:
        """Start the process and load the model.

        Args:
            room: makes room for what it needs, and says how many slots that leaves it.

        Raises:
            EngineError: `room` finds none.
            EdgekitError: the model cannot be opened.
            Died: the process died; `delay` has grown.
        """
        self._state = "restarting" if self._state == "restarting" else "loading"
        self._said, self._fault, started = asyncio.Queue(), "", _now()
        child = self._child = self._started()
        try:
            child.send(self._wishes)
            said = await self._next("weights")
            self.need = _need(said)
            self._slots = await room(self.need)
            child.send({"slots": self._slots})
            await self._next("ready")
        except Died:
            self.delay.died(_now() - started, answered=False)
            raise
        except BaseException:
            await self._end_process()
            raise
        self._state, self._ready_at, self._answered, self._failed = "ready", _now(), False, None
        self._loads += 1
        self.pump()

    def _started(self) -> Child:
        try:
            child = Child(self._options.perform, self._arrived, lambda how: self._died(child, how))
        except OSError as error:
            raise EngineFailed(f"no process can be started: {error.strerror}") from error
        return child

    @property
    def _wishes(self) -> dict[str, Any]:
        options = self._options
        return {
            "folder": str(self.served.folder),
            "level": self.served.level,
            "context": self.served.context or None,
            "device": options.device,
            "runtime": options.runtime,
            "cache_type": options.cache_type,
            "keep": options.keep,
            "most_slots": options.slots or MOST_SLOTS,
        }

    async def _next(self, wanted: str) -> dict[str, Any]:
        """What the process says next, which is what is wanted, or why it is not."""
        document = await self._said.get()
        if document is None or self._child is None:
            raise Died
        if "failed" in document:
            raise raised(document["failed"])
        if wanted not in document:
            raise EngineFailed("the process said what makes no sense before it was ready")
        return document

    def fail(self, error: EdgekitError) -> None:
        """It cannot be loaded: everybody who waits is told so."""
        failed = error if isinstance(error, EngineFailed) else _failure(error, self.served.id)
        self._state, self._failed = "failed", (_now(), failed)
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.end(failed)
        self._settle()

    async def unload(self) -> None:
        """End the process as soon as it works on nothing; it takes nothing new meanwhile, and who waits has it loaded
        again.
        """
        self._retiring = True
        try:
            await self._idle.wait()
            if self._child:  # it has not died meanwhile
                await self._end_process()
                self._state = "unloaded"
                self._unloads += 1
        finally:
            self._retiring = False
        self.pump()

    async def close(self) -> None:
        """End the process, whatever it is at; who still waits for something is told that the server ends."""
        self.draining = True
        unfinished = [*self._running.values(), *self._waiting]
        self._waiting.clear()
        self._running.clear()
        self._settle()
        for request in unfinished:
            request.end(Draining("the server ended before this was answered", remedy="ask again in a minute"))
        await self._end_process()
        self._state = "unloaded"

    async def _end_process(self) -> None:
        child, self._child, self.need = self._child, None, None
        if child:
            await child.close()


def _need(said: Mapping[str, Any]) -> Need:
    """What a process says that its model needs. Raises EngineFailed where it makes no sense."""
    weights, contexts = said.get("weights"), said.get("contexts")
    if not isinstance(weights, int) or not contexts or not all(isinstance(size, int) for size in contexts):
        raise EngineFailed("the process did not say what its model needs")
    return Need(weights, tuple(contexts))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _poisoned() -> Poisoned:
    message = "the engine died of this very request before, twice: it is not tried again"
    return Poisoned(message, remedy="ask otherwise, or with another image; report the request to who made edgekit")


def _failure(error: EdgekitError, name: str) -> EngineFailed:
    message = f"{name} cannot be loaded: {error.message}"
    return EngineFailed(message, allowed=error.allowed, remedy=error.remedy, retry_after_s=_FAILED_S)
