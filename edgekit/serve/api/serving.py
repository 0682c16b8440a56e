"""What every route has at hand, and what it says of the model that answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from edgekit.errors import EdgekitError, UsageError
from edgekit.serve.api.given_up import GivenUp
from edgekit.serve.api.handed_over import HandedOver
from edgekit.serve.api.reading import ParameterError
from edgekit.serve.jobs import Event, Job

if TYPE_CHECKING:
    from edgekit.serve.engines.pool import Engines
    from edgekit.serve.engines.served import Served


@dataclass(frozen=True)
class Serving:
    """What is served.

    Attributes:
        engines: who answers.
        images: that were handed over.
        given_up: requests whose clients did not wait.
    """

    engines: Engines
    images: HandedOver = field(default_factory=HandedOver)
    given_up: GivenUp = field(default_factory=GivenUp)

    def model(self, name: str | None, ability: str | None = None) -> Served:
        """The model that a request names; what it does not name has to be clear.

        Args:
            ability: that the route needs; None for any model.

        Raises:
            UnknownModel: nothing of that name is served.
            ParameterError: no name, and several models that could be meant.
            UsageError: the model cannot do it.
        """
        served = self.engines.find(name) if name else self._only(ability)
        if ability and ability not in served.abilities:
            raise UsageError(f"{served.id} cannot {_said(ability)}", allowed=_names(self._able(ability)))
        return served

    async def ask(
        self, http: Request, served: Served, job: Job, names: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Event, None]:
        """What an engine answers; its errors name parameters as the route does, and `given_up` learns when it begins.

        Args:
            names: option or input as Python has it -> as the route has it, where that is another.
        """
        async with aclosing(self.engines.ask(served, job, lambda: self.given_up.begins(http))) as events:
            try:
                async for event in events:
                    yield event
            except EdgekitError as error:
                error.param = (names or {}).get(error.param or "", error.param)
                raise

    def _only(self, ability: str | None) -> Served:
        able = self._able(ability)
        if ability and not able:
            raise UsageError(f"no model here can {_said(ability)}", allowed="what GET /v1/models lists as capabilities")
        default = [one for one in able if one.default]
        if len(default) != 1:
            raise ParameterError("model", "none is named, and several could be meant", allowed=_names(able))
        return default[0]

    def _able(self, ability: str | None) -> list[Served]:
        return [one for one in self.engines.served if not ability or ability in one.abilities]


def _said(ability: str) -> str:
    return ability.replace("_", " ")


def _names(models: Iterable[Served]) -> str:
    return ", ".join(one.id for one in models) or "no model that is served here"


def told(served: Served, warnings: Iterable[str]) -> list[str]:
    """Warnings, each once, for clients, who are not to learn where on this machine a model lies."""
    return list(dict.fromkeys(text.replace(str(served.folder), served.folder.name) for text in warnings))


def fingerprint(served: Served) -> str:
    """What OpenAI's `system_fingerprint` is for: equal where the same files answer."""
    return f"fp_{served.digest[:12]}"
