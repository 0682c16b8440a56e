"""Which jobs have crashed an engine, and what that says of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from edgekit.serve.engines.requests import Request

POISONED_AT = 2  # crashes
FORGET_S = 600.0


class Suspects:
    """Which jobs were under way when an engine crashed, and what that says of them.

    Of several that were under way together, one is to blame, and nobody knows which: each is suspected, and from then
    on runs alone. Then a crash is its own, and one that goes well clears it. So an innocent neighbour of a deadly job
    loses at most one answer by it, and is never refused. What kills processes may also be the system, short of memory,
    or a user: so a crash is forgotten in time.

    Args:
        forget_s: seconds after which a job's last crash is forgotten.
        clock: seconds.
    """

    def __init__(self, forget_s: float = FORGET_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._forget_s, self._clock = forget_s, clock
        self._crashes: dict[str, tuple[int, float]] = {}  # how many, and when the last is forgotten

    def crashed(self, requests: Iterable[Request]) -> None:
        """An engine died of one of these."""
        for digest in {request.digest for request in requests}:
            self._crashes[digest] = self._count(digest) + 1, self._clock() + self._forget_s

    def went_well(self, request: Request) -> None:
        """It ended as it should, so it is not what crashed an engine before."""
        if self._crashes and not self.is_poisoned(request):
            self._crashes.pop(request.digest, None)

    def is_suspect(self, request: Request) -> bool:
        """Whether it must run alone."""
        return bool(self._crashes) and self._count(request.digest) > 0

    def is_poisoned(self, request: Request) -> bool:
        """Whether it crashed an engine so often that it is not tried again for now."""
        return bool(self._crashes) and self._count(request.digest) >= POISONED_AT

    def forgotten_in_s(self, request: Request) -> float:
        """Seconds until its crashes are forgotten."""
        _, until = self._crashes.get(request.digest, (0, self._clock()))
        return max(until - self._clock(), 0.0)

    def _count(self, digest: str) -> int:
        now = self._clock()
        self._crashes = {one: crash for one, crash in self._crashes.items() if crash[1] > now}
        return self._crashes.get(digest, (0, now))[0]
