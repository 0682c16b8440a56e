"""One model of the server: a process that is given jobs, and started again when it dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from edgekit.errors import EdgekitError, InputError
from edgekit.serve.engines.channel import MOST_DATA, MOST_DOCUMENT, Frame, Rubbish
from edgekit.serve.engines.child import Child
from edgekit.serve.engines.errors import Busy, Draining, EngineDied, EngineFailed, Poisoned, again
from edgekit.serve.engines.line import Line
from edgekit.serve.engines.requests import Begins, Request
from edgekit.serve.engines.room import MOST_SLOTS, Need
from edgekit.serve.engines.served import Served
from edgekit.serve.engines.state import Delay, EngineOptions, State, Status
from edgekit.serve.jobs import Event, EventKind, Job, raised

_LOG = logging.getLogger("edgekit.serve")  # of engines, never of what they are asked
_KINDS = frozenset(get_args(EventKind))
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
        line: its requests.
        need: what it holds in memory, None while it has no process.
        draining: nothing more is taken.
    """

    def __init__(self, served: Served, options: EngineOptions, wanted: Callable[[Engine], None]) -> None:
        self.served, self._options, self._wanted = served, options, wanted
        self.line, self.delay = Line(options.forget_s), Delay()
        self.need: Need | None = None
        self.draining = False
        self._state: State = "unloaded"
        self._restarts = self._loads = self._unloads = 0
        self._numbers = itertools.count(1)
        self._child: Child | None = None
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # of the process, before it is ready
        self._fault = ""  # what ended the last process
        self._retiring = False
        self._ready_at, self._worked = 0.0, False
        self._failed: tuple[float, EngineFailed] | None = None

    @property
    def status(self) -> Status:
        """How it is now."""
        counts = (len(self.line), len(self.line.running), self._restarts, self._loads, self._unloads)
        problem = self._failed[1].message if self._failed else None
        if self._state == "restarting":
            problem = f"its process died: {self._fault}"
        state: State = self._state
        if self._child and self._child.hangs:
            state = "hanging" if state == "ready" else state
            problem = f"its process gives no sign of life; {self._options.silent_s:g} s of that end it"
        return Status(state, self.line.slots, *counts, problem, self._child.pid if self._child else None)

    @property
    def held_bytes(self) -> int:
        """Memory that its process may take, as it was counted; 0 where there is none."""
        return self.need.with_slots(max(self.line.slots, 1)) if self.need else 0

    async def ask(self, job: Job, begins: Begins) -> AsyncGenerator[Event, None]:
        """What comes of a job, as it comes. Closing this gives the job up, which frees its slot.

        Args:
            begins: called when the process is given it.

        Raises:
            EngineError: it was not done, see `edgekit.serve.engines.errors`.
            EdgekitError: what the engine raised.
        """
        request = Request(next(self._numbers), job, begins)
        self._check(request)
        self._enter(request)
        try:
            while (event := await request.next()) is not None:
                if count := request.taken():
                    self._tell(request, {"took": count})
                yield event
        finally:
            request.cancelled = True
            self._tell(request, {"cancel": True})
            if self.line.withdraw(request):
                self.pump()  # it may have been what all behind it waited for

    def _tell(self, request: Request, word: Mapping[str, Any]) -> None:
        """Say something of a request to the process, if that works on it."""
        if self._child and request.number in self.line.running:
            self._child.send({"job": request.number, **word})

    # ------------------------------------------------------------ who begins

    def _check(self, request: Request) -> None:
        if self.draining:
            raise Draining("the server is about to end and takes no more requests", remedy="ask again in a minute")
        if self.line.suspects.is_poisoned(request):
            raise self._poisoned(request)
        if self._failed and _now() < self._failed[0] + _FAILED_S:
            raise again(self._failed[1])

    def _enter(self, request: Request) -> None:
        if request.is_light and self._takes and self.line.has_room(request):
            self._begin(request)
            return
        self.line.join(request)
        self.pump()
        if len(self.line) > self._options.queue and self.line.withdraw(request):
            after = self.line.wait_s
            message = f"{len(self.line)} requests wait for {self.served.id}, as many as may"
            raise Busy(message, remedy=f"ask again in {after} s", retry_after_s=after)

    @property
    def _takes(self) -> bool:
        """Whether the process may be given jobs."""
        return self._state == "ready" and not self._retiring

    def pump(self) -> None:
        """Give the process what waits, as far as it can take it; have it loaded where it is not."""
        if len(self.line) and self._state in ("unloaded", "failed") and not self._retiring:
            self._wanted(self)
        while self._takes and (request := self.line.next()):
            if self.line.suspects.is_poisoned(request):  # by another that asked the same
                request.end(self._poisoned(request))
            else:
                self._begin(request)

    def _begin(self, request: Request) -> None:
        assert self._child, "ready"
        job = request.job
        document = {"job": request.number, "kind": job.kind, "body": job.body, "images": list(map(len, job.images))}
        try:
            self._child.send(document, job.images)
        except Rubbish:
            allowed = f"{MOST_DATA >> 20} MB of images, {MOST_DOCUMENT >> 20} MB of all else"
            request.end(InputError("the request is too large", allowed=allowed))
        else:
            self.line.began(request)

    # ------------------------------------------------------------ what the process says

    def _arrived(self, frames: Sequence[Frame]) -> None:
        for document, data in frames:
            try:
                self._heard(document, data)
            except (KeyError, TypeError, AttributeError) as error:
                raise Rubbish(f"a frame without what it needs: {type(error).__name__}") from error
        self.pump()

    def _heard(self, document: Mapping[str, Any], data: bytes) -> None:
        if "job" in document:
            self._heard_of(self.line.running[document["job"]], document, data)
        elif "fault" in document:
            self._fault = f"{document['fault']:.200}"
        elif self._state == "ready" or self._said.qsize() > 1:
            raise Rubbish("words that nobody waits for")
        else:
            self._said.put_nowait(dict(document))

    def _heard_of(self, request: Request, document: Mapping[str, Any], data: bytes) -> None:
        if "event" in document:
            if document["event"] not in _KINDS or not isinstance(document["body"], dict):
                raise Rubbish("no event")
            request.add(Event(document["event"], document["body"], data))
            self._worked = True
        else:
            request.end(raised(document["error"]) if "error" in document else None)
            self.line.ended(request)

    def _died(self, child: Child, how: str) -> None:
        """The process is gone. Those in flight are lost; who waits goes on waiting for the next process."""
        if child is not self._child:  # it was closed
            return
        self._child, self.need = None, None
        self._fault = self._fault or how
        if self._state != "ready":
            self._said.put_nowait(None)
            return
        self._state = "restarting"
        self._restarts += 1
        self.delay.died(_now() - self._ready_at, worked=self._worked)
        lost, delay = len(self.line.running), self.delay.seconds
        _LOG.warning(
            "%s: the engine died, with %d in flight: %s; next in %.1f s", self.served.id, lost, self._fault, delay
        )
        self.line.lose(self._death)
        if not self.draining or len(self.line):
            self._wanted(self)

    def _death(self) -> EngineDied:
        return EngineDied(
            f"the engine of {self.served.id} died at this request, or at one beside it: {self._fault}",
            remedy="ask again: a request that it dies at once more is refused for some minutes",
            retry_after_s=max(1, math.ceil(self.delay.seconds)),
        )

    def _poisoned(self, request: Request) -> Poisoned:
        after = max(1, math.ceil(self.line.suspects.forgotten_in_s(request)))
        message = "the engine died at this very request before, twice: it is not tried again for now"
        remedy = f"ask otherwise, or with another image, or the same in {after} s; if it dies then, report the request"
        return Poisoned(message, remedy=remedy, retry_after_s=after)

    # ------------------------------------------------------------ load and unload

    async def open(self, room: Callable[[Need], Awaitable[int]]) -> None:
        """Start the process and load the model.

        Args:
            room: makes room for what it needs, and says how many slots that leaves it.

        Raises:
            EngineError: `room` finds none, or no process can be started.
            EdgekitError: the model cannot be opened.
            Died: the process died; `delay` has grown.
        """
        self._state = "restarting" if self._state == "restarting" else "loading"
        self._said, started = asyncio.Queue(), _now()
        try:
            child = self._child = Child(self._options.perform, self._arrived, self._died, self._options.silent_s)
            self._fault = ""
            child.send(self._wishes)
            self.need = _need(await self._next("weights"))
            self.line.slots = await room(self.need)
            child.send({"slots": self.line.slots})
            ready = (await self._next("ready"))["ready"]
        except Died:
            self.delay.died(_now() - started, worked=False)
            raise
        except OSError as error:
            raise EngineFailed(f"no process can be started: {error.strerror}") from error
        except BaseException:
            await self._end_process()
            raise
        self._state, self._failed = "ready", None
        self._ready_at, self._worked = _now(), False
        self._loads += 1
        _LOG.info("%s: loaded in %.1f s, %d at once", self.served.id, _now() - started, self.line.slots)
        for hint in _hints(ready):
            _LOG.info("%s: %s", self.served.id, hint)
        self.pump()

    @property
    def _wishes(self) -> dict[str, Any]:
        options = self._options
        return {
            "folder": str(self.served.folder),
            "level": self.served.level,
            "digest": self.served.digest,
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
            raise Died(self._fault)
        if "failed" in document:
            raise raised(document["failed"])
        if wanted not in document:
            raise EngineFailed("the process said what makes no sense before it was ready")
        return document

    def fail(self, error: EdgekitError) -> None:
        """It cannot be loaded: everybody who waits is told so."""
        failed = error if isinstance(error, EngineFailed) else _failure(error, self.served)
        self._state, self._failed = "failed", (_now(), failed)
        _LOG.error("%s: %s", self.served.id, error.message)
        self.line.refuse(lambda: again(failed))

    async def unload(self) -> None:
        """End the process as soon as it works on nothing; it takes nothing new meanwhile, and who waits has it loaded
        again.
        """
        self._retiring = True
        try:
            await self.line.idle.wait()
            if self._child:  # it has not died meanwhile
                await self._end_process()
                self._state = "unloaded"
                self._unloads += 1
                _LOG.info("%s: unloaded, to make room", self.served.id)
        finally:
            self._retiring = False
        self.pump()

    async def close(self) -> None:
        """End the process, whatever it is at; who still waits for something is told that the server ends."""
        self.draining = True
        ended = "the server ended before this was answered"
        self.line.refuse(lambda: Draining(ended, remedy="ask again in a minute"), running=True)
        await self._end_process()
        self._state = "unloaded"

    async def _end_process(self) -> None:
        child, self._child, self.need = self._child, None, None
        if child:
            await child.close()


def _need(said: Mapping[str, Any]) -> Need:
    """What a process says that its model needs. Raises EngineFailed where it makes no sense."""
    sizes = [said["weights"], *(contexts if isinstance(contexts := said.get("contexts"), list) else ())]
    if len(sizes) < 2 or not all(isinstance(size, int) for size in sizes):
        raise EngineFailed("the process did not say what its model needs")
    return Need(sizes[0], tuple(sizes[1:]))


def _hints(ready: Any) -> list[str]:
    """What a process says for whoever runs this machine."""
    found = ready.get("hints") if isinstance(ready, dict) else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failure(error: EdgekitError, served: Served) -> EngineFailed:
    """As clients are told, who are not to learn where on this machine a model lies; the log says that."""

    def told(text: str | None) -> str | None:
        return text and text.replace(str(served.folder), served.folder.name)

    message = f"{served.id} cannot be loaded: {told(error.message)}"
    return EngineFailed(message, allowed=told(error.allowed), remedy=told(error.remedy), retry_after_s=_FAILED_S)
