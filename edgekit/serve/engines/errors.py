"""What a request is told when no engine answers it.

    EngineError         an engine cannot answer now, or not this
    ├── UnknownModel    nothing of that name is served
    ├── Busy            as many requests wait as may
    ├── Draining        the server is about to end
    ├── EngineFailed    the model cannot be loaded
    │   └── TooLarge    it finds no room in memory, whatever else is unloaded
    ├── EngineDied      the engine's process ended while it worked on the request
    └── Poisoned        the request ended an engine's process twice

What the engine itself raised reaches the request as it was.
"""

from __future__ import annotations

from edgekit.errors import EdgekitError


class EngineError(EdgekitError):
    """An engine cannot answer now, or not this.

    Args:
        retry_after_s: seconds after which asking again may help; None where it would not.
    """

    def __init__(
        self,
        message: str,
        *,
        allowed: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, allowed=allowed, remedy=remedy)
        self.retry_after_s = retry_after_s


def again(error: EngineError) -> EngineError:
    """The same error for another who is told it: whoever raises one adds a trace to it."""
    return type(error)(error.message, allowed=error.allowed, remedy=error.remedy, retry_after_s=error.retry_after_s)


class UnknownModel(EngineError):  # noqa: N818 - named for what it says, as all of these
    """Nothing of that name is served."""


class Busy(EngineError):  # noqa: N818
    """As many requests wait as may."""


class Draining(EngineError):  # noqa: N818
    """The server takes no more requests: it is about to end."""


class EngineFailed(EngineError):  # noqa: N818
    """The model cannot be loaded."""


class TooLarge(EngineFailed):
    """The model finds no room in memory, whatever else is unloaded."""


class EngineDied(EngineError):  # noqa: N818
    """The engine's process ended while it worked on the request."""


class Poisoned(EngineError):  # noqa: N818
    """The request ended an engine's process twice, and is not tried again."""
