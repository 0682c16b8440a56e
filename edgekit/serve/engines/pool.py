"""All engines of the server: which is loaded, and which makes room for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

from edgekit.errors import EdgekitError, unknown
from edgekit.machine.devices import device as load_device
from edgekit.serve.engines.engine import Died, Engine
from edgekit.serve.engines.errors import EngineFailed, TooLarge, UnknownModel
from edgekit.serve.engines.requests import Begins, begins_unheard
from edgekit.serve.engines.room import Need, free_bytes
from edgekit.serve.engines.served import Served
from edgekit.serve.engines.state import EngineOptions, Status
from edgekit.serve.jobs import Event, Job

_DEATHS = 3  # in loading, one behind the other, after which it has failed

Free = Callable[[Collection[int]], int]


class Engines:
    """The models that are served, each in a process that is started when somebody asks for it.

    All of it happens in one event loop.

    Args:
        served: the models.
        options: how each is run.
        free: processes of engines -> bytes of memory that another one may take.

    Attributes:
        served: the models, in their order.
    """

    def __init__(self, served: Sequence[Served], options: EngineOptions | None = None, free: Free = free_bytes) -> None:
        self.served = tuple(served)
        self._options = options = options or EngineOptions()
        self._free = free
        self._engines = {one.id: Engine(one, options, self._bring) for one in served}
        self._names = {name: one for one in served for name in (one.id, *one.aliases)}
        profile = load_device(options.device) if options.device else None
        self._most_weights = profile.model_memory_gb * 1e9 if profile else float("inf")
        self._loading: dict[Engine, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # one is loaded at a time: each counts what is free

    def find(self, name: str) -> Served:
        """What is served under a name, an id or an alias. Raises UnknownModel."""
        if name not in self._names:
            wrong = unknown("model", name, self._names)
            raise UnknownModel(wrong.message, allowed=wrong.allowed, remedy="GET /v1/models lists them")
        return self._names[name]

    def ask(self, served: Served | str, job: Job, begins: Begins = begins_unheard) -> AsyncGenerator[Event, None]:
        """What comes of a job, as it comes; the model is loaded first where it is not.

        Closing the generator gives the job up: its slot is free as soon as the engine's next step ends.

        Args:
            begins: called when the engine is given the job, which may have waited long.

        Raises:
            UnknownModel: nothing of that name is served; at once, and all the rest while iterating:
            EngineError: it was not done, see `edgekit.serve.engines.errors`.
            EdgekitError: what the engine raised.
        """
        return self._engine(served).ask(job, begins)

    def status(self, served: Served | str) -> Status:
        """How a model's engine is. Raises UnknownModel."""
        return self._engine(served).status

    async def start(self, preload: Sequence[Served | str] = ()) -> None:
        """Begin to load models that nobody has asked for yet; `status` says how that went. Raises UnknownModel."""
        for one in [self._engine(served) for served in preload]:
            self._bring(one)

    async def drain(self, seconds: float) -> bool:
        """Take no more requests, and wait so long for those that were taken.

        Returns:
            whether all of them were answered.
        """
        for engine in self._engines.values():
            engine.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for engine in self._engines.values():
                    await engine.line.done.wait()
                return True
        return False

    async def close(self) -> None:
        """End all processes; what is under way is told `Draining`. Nothing of them is left then."""
        for engine in self._engines.values():
            engine.draining = True
        loading = list(self._loading.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))

    def _engine(self, served: Served | str) -> Engine:
        return self._engines[self.find(served).id if isinstance(served, str) else served.id]

    def _bring(self, engine: Engine) -> None:
        """Have an engine loaded, once, however many ask for it."""
        if engine not in self._loading:
            self._loading[engine] = asyncio.create_task(self._load(engine), name=f"load {engine.served.id}")

    async def _load(self, engine: Engine) -> None:
        try:
            for death in range(1, _DEATHS + 1):
                await asyncio.sleep(engine.delay.seconds)
                async with self._turn:
                    try:
                        return await engine.open(partial(self._room, engine))
                    except Died as died:
                        why = f"its process died {death} times, at last of this: {died}"
            engine.fail(EngineFailed(f"{engine.served.id} cannot be loaded: {why}"))
        except EdgekitError as error:
            engine.fail(error)
        except asyncio.CancelledError:  # the server ends, and says so itself
            raise
        except BaseException:  # nobody may wait for ever, whatever was done wrong
            engine.fail(EngineFailed(f"{engine.served.id} was not loaded"))
            raise
        finally:
            del self._loading[engine]

    async def _room(self, engine: Engine, need: Need) -> int:
        """Unload what was not used for longest until there is room for one more; say how many slots it may have.

        Raises:
            TooLarge: there is no room for it even when it is alone.
        """
        while True:
            others = [other for other in self._engines.values() if other is not engine and other.need]
            free = self._free([pid for other in others if (pid := other.status.pid)])
            beside = sum(other.need.weights for other in others if other.need)
            if slots := self._fitting(need, free, beside):
                return slots
            could_be = free + sum(other.held_bytes for other in others)
            if not others or not self._fitting(need, could_be, 0):
                raise _too_large(engine.served.id, need.with_slots(self._least(need)), could_be)
            await min(others, key=lambda other: (bool(other.line.running), other.line.used)).unload()

    def _fitting(self, need: Need, free: int, beside: int) -> int | None:
        """How many slots find room beside so many bytes of weights; None where not even the least do."""
        if need.weights + beside > self._most_weights:
            return None
        least = self._least(need)
        fitting = need.slots_within(free, least)
        return least if fitting and self._options.slots else fitting

    def _least(self, need: Need) -> int:
        """Slots without which a model is not loaded."""
        return min(self._options.slots or 1, len(need.contexts))


def _too_large(name: str, needed: int, free: int) -> TooLarge:
    message = f"{name} needs {needed / 1e9:.2g} GB of memory, and {free / 1e9:.2g} GB could be had"
    return TooLarge(message, remedy="a smaller level, --slots 1, a shorter --context, or close other programs")
