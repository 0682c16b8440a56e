"""The requests of one engine: who waits, who is answered now, and who may begin."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.serve.engines.requests import Request
from edgekit.serve.engines.suspects import FORGET_S, Suspects

_LIGHT_AT_ONCE = 4
_SMOOTHED = 0.2  # of each new duration in the typical one


class Line:
    """First come, first served, as many at once as there are slots; what is suspected of a crash alone.

    Args:
        forget_s: as `Suspects` has it.

    Attributes:
        slots: that the engine has; 0 before it is known.
        suspects: what crashed the engine.
        running: number -> request that the engine works on.
        used: the loop's time at which one last began or ended.
    """

    def __init__(self, forget_s: float = FORGET_S) -> None:
        self.slots, self.used = 0, 0.0
        self.suspects = Suspects(forget_s)
        self.running: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._typical_s = 1.0
        self.idle, self.done = asyncio.Event(), asyncio.Event()
        self._settle()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def wait_s(self) -> int:
        """Seconds after which one more may find room, by how long others took."""
        return max(1, math.ceil(self._typical_s * (len(self) + 1) / max(self.slots, 1)))

    def join(self, request: Request) -> None:
        """Wait behind all others."""
        self._waiting.append(request)
        self._settle()

    def withdraw(self, request: Request) -> bool:
        """Wait no more; whether it did."""
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        self._settle()
        return True

    def next(self) -> Request | None:
        """Who begins now, and waits no more; None where the first one must wait on."""
        if not self._waiting or not self.has_room(self._waiting[0]):
            return None
        first = self._waiting.popleft()
        self._settle()
        return first

    def has_room(self, request: Request) -> bool:
        """Whether it may run beside those that do. One that needs no slot does not wait for one."""
        running = self.running.values()
        if self.suspects.is_suspect(request):
            return not running
        if any(map(self.suspects.is_suspect, running)):
            return False
        alike = sum(other.is_light == request.is_light for other in running)
        return alike < (_LIGHT_AT_ONCE if request.is_light else self.slots)

    def began(self, request: Request) -> None:
        """The engine works on it."""
        self.used = request.began = _now()
        self.running[request.number] = request
        request.begins()
        self._settle()

    def ended(self, request: Request) -> None:
        """The engine is through with it: its slot is free."""
        del self.running[request.number]
        self.used = _now()
        if not request.cancelled:
            assert request.began is not None, "it ran"
            self.suspects.went_well(request)
            self._typical_s += _SMOOTHED * (self.used - request.began - self._typical_s)
        self._settle()

    def lose(self, error: Callable[[], EdgekitError]) -> None:
        """The engine died: who was answered is told so, and suspected."""
        self.suspects.crashed(self.running.values())
        self._end(list(self.running.values()), error)

    def refuse(self, error: Callable[[], EdgekitError], *, running: bool = False) -> None:
        """Tell all who wait why that is in vain, and those who are answered, too, if so said."""
        self._end([*self._waiting, *(self.running.values() if running else ())], error)

    def _end(self, requests: list[Request], error: Callable[[], EdgekitError]) -> None:
        for request in requests:  # an error for each: whoever raises one adds its own trace
            request.end(error())
            self.running.pop(request.number, None)
        self._waiting = deque(request for request in self._waiting if request not in requests)
        self._settle()

    def _settle(self) -> None:
        """Have those know who wait for the end of what is under way, or of all."""
        for event, so in ((self.idle, not self.running), (self.done, not self.running and not self._waiting)):
            if so:
                event.set()
            else:
                event.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
