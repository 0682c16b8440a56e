"""Work that does not stream, and that nobody may want any more: it ends between two of its steps.

An answer looks at `GenerationOptions.cancelled` by itself. What has no such options, as the scores of a thousand
labels, asks here, in the thread that called it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

from edgekit.errors import UsageError

_CANCELLED: ContextVar[Event | None] = ContextVar("cancelled", default=None)


@contextmanager
def unless(cancelled: Event) -> Iterator[None]:
    """What this thread does inside ends with a UsageError soon after the flag is set, from whatever thread."""
    token = _CANCELLED.set(cancelled)
    try:
        yield
    finally:
        _CANCELLED.reset(token)


def check() -> None:
    """Raise UsageError where what this thread does is not wanted any more."""
    cancelled = _CANCELLED.get()
    if cancelled is not None and cancelled.is_set():
        raise UsageError("it was cancelled before it was finished", remedy="ask again")
