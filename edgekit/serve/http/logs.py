"""The server's log on standard error: of a level, with times, and nothing that a client sent."""

from __future__ import annotations

import logging

from edgekit.terminal import say

LEVELS = ("debug", "info", "warning", "error")


class _OnStandardError(logging.Handler):
    """Says a record as the command says everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), lines=True)


def begin(level: str) -> None:
    """Log what the server says from this level on, and silence the libraries, whose messages quote requests."""
    handler = _OnStandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("edgekit.serve")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(level.upper())
    for name in ("uvicorn", "asyncio", "starlette"):
        library = logging.getLogger(name)
        library.handlers, library.propagate = [logging.NullHandler()], False
