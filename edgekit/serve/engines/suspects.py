"""Which jobs have crashed an engine, and what that says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edgekit.serve.engines.requests import Request

POISONED_AT = 2  # crashes


class Suspects:
    """Which jobs were under way when an engine crashed, and what that says of them.

    Of several that were under way together, one is to blame, and nobody knows which: each is suspected, and from then
    on runs alone. Then a crash is its own, and one that goes well clears it. So an innocent neighbour of a deadly job
    loses at most one answer by it, and is never refused.
    """

    def __init__(self) -> None:
        self._crashes: Counter[str] = Counter()

    def crashed(self, requests: Iterable[Request]) -> None:
        """An engine died of one of these."""
        self._crashes.update({request.digest for request in requests})

    def went_well(self, request: Request) -> None:
        """It ended as it should, so it is not what crashed an engine before."""
        if self._crashes and not self.is_poisoned(request):
            self._crashes.pop(request.digest, None)

    def is_suspect(self, request: Request) -> bool:
        """Whether it must run alone."""
        return bool(self._crashes) and self._crashes[request.digest] > 0

    def is_poisoned(self, request: Request) -> bool:
        """Whether it crashed an engine so often that it is not tried again."""
        return bool(self._crashes) and self._crashes[request.digest] >= POISONED_AT
