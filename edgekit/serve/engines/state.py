"""How engines are run, and how one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.runtime.parts import CacheType
from edgekit.serve.engines.child import SILENT_S
from edgekit.serve.engines.suspects import FORGET_S

State = Literal["unloaded", "loading", "ready", "hanging", "restarting", "failed"]

_FIRST_DELAY_S, _LONGEST_DELAY_S, _GOOD_S = 0.1, 30.0, 60.0


@dataclass(frozen=True)
class EngineOptions:
    """How engines are run.

    Attributes:
        slots: answers of one model at once; for None as many as memory allows, up to
            `edgekit.serve.engines.room.MOST_SLOTS`.
        queue: requests of one model that may wait.
        context, device, runtime: as in `edgekit.runtime.opening.open_model`.
        cache_type, keep: as in `edgekit.runtime.use.Use`.
        forget_s: seconds after which it is forgotten that a request crashed an engine.
        silent_s: seconds without a sign of life after which an engine's process is killed.
        perform: MODULE:FUNCTION of what does the jobs, see `edgekit.serve.engines.process`.
    """

    slots: int | None = None
    queue: int = 64
    context: int | None = None
    device: str | None = None
    runtime: str | None = None
    cache_type: CacheType | None = None
    keep: bool = False
    forget_s: float = FORGET_S
    silent_s: float = SILENT_S
    perform: str = "edgekit.serve.perform:perform"


@dataclass(frozen=True)
class Status:
    """How an engine is.

    Attributes:
        slots: answers at once; 0 before it is loaded.
        queued, running: requests that wait, and that the process works on.
        restarts: processes that died and had to be replaced.
        loads, unloads: how often the model was loaded, and unloaded to make room.
        problem: why it cannot be loaded, what its process died of, or that it hangs.
        pid: of its process, None while there is none.
    """

    state: State
    slots: int
    queued: int
    running: int
    restarts: int
    loads: int
    unloads: int
    problem: str | None
    pid: int | None


class Delay:
    """What a restart waits, so that what dies at once does not keep the machine busy: longer each time.

    Attributes:
        seconds: to wait now.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def died(self, lived_s: float, *, worked: bool) -> None:
        """The process ended after so long a life; any token, or a good minute, makes up for all that was before."""
        grown = max(min(2 * self.seconds, _LONGEST_DELAY_S), _FIRST_DELAY_S)
        self.seconds = _FIRST_DELAY_S if worked or lived_s >= _GOOD_S else grown
