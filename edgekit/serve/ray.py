"""The server on several machines: the same application as a deployment of Ray Serve, its engines in every replica.

    pip install 'edgekit[ray]'                               # on every node, with the same artifacts at the same paths
    export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=edgekit.serve.ray:middlewares RAY_AUTH_MODE=token
    ray get-auth-token --generate                            # once: every node needs the same ~/.ray/auth_token
    ray start --head                                         # and on the others: ray start --address HEAD:6379
    serve start --http-host 0.0.0.0
    serve run edgekit.serve.ray:app artifacts=/data/medgemma replicas=2 api_key_file=/etc/edgekit/keys

Each replica takes a node for itself. Clients speak to Serve's proxies, whose address a replica cannot know, so that a
key is always needed, and the models' terms where they have any. A proxy holds no time limits against slow senders:
place one that does between it and an untrusted network. Images that were handed over are held by one replica: clients
that name their ids send the same `x-session-id` with each request. /metrics and /props are of the replica that answers.
Whoever has the cluster's token may run anything on it: its other ports are nobody else's to reach.
"""

# Annotations stay objects here: Serve looks for the model of `app`'s argument.
import asyncio
import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from ray.serve.schema import LoggingConfig
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.artifacts.licenses import read_agreement
from edgekit.errors import UsageError
from edgekit.machine.resident import keep_no_core
from edgekit.serve import api, page
from edgekit.serve.api.serving import Serving
from edgekit.serve.engines.errors import EngineDied, EngineFailed
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import EngineOptions
from edgekit.serve.http import answers
from edgekit.serve.http.app import Door, application
from edgekit.serve.http.errors import BodyTooLarge
from edgekit.serve.http.guard import allowed_hosts
from edgekit.serve.http.house import House, Life
from edgekit.serve.http.keys import read_keys
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.metrics import MeasuredEngines
from edgekit.serve.http.terms import need_agreement

_AT_ONCE = 1000  # requests that a replica takes: it refuses by itself what its models' queues have no place for
_HEALTH_S, _UNHEALTHY_S, _GRACE_S = 5.0, 15.0, 5.0
_WATCHED_S = 0.1


def _several(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


class Settings(BaseModel):
    """What a deployment serves, where and to whom.

    Attributes:
        artifacts: folders that every node has; in one text with commas between them, as all that is several.
        replicas: each on a node of its own.
        cpus: cores of its node that a replica reserves.
        api_key_file, terms, hosts: as `edgekit serve` takes them; the files are every node's own.
        port: of Serve's proxies.
        levels, slots, queue, context, runtime: as of `edgekit serve`.
        drain_s: for how long what runs may finish when a replica ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifacts: Annotated[tuple[Path, ...], BeforeValidator(_several), Field(min_length=1)]
    replicas: int = Field(default=2, ge=1)
    cpus: float = Field(default=1, gt=0)
    api_key_file: Path
    terms: Path | None = None
    hosts: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    port: int = Field(default=8000, ge=1, le=65535)
    levels: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    slots: int | None = Field(default=None, ge=1)
    queue: int = Field(default=64, ge=0)
    context: int | None = Field(default=None, ge=1)
    runtime: str | None = None
    drain_s: float = Field(default=30, ge=0)


def app(settings: Settings) -> serve.Application:
    """The deployment, for `serve run` and `ray.serve.run`."""
    quiet = LoggingConfig(enable_access_log=False)  # the server's own log says as much, and no address
    deployed = serve.deployment(serve.ingress()(Replica)).options(
        name="edgekit",
        num_replicas=settings.replicas,
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": settings.cpus},
        max_ongoing_requests=_AT_ONCE,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_UNHEALTHY_S,
        graceful_shutdown_timeout_s=settings.drain_s + _GRACE_S,
        request_router_config=RequestRouterConfig(request_router_class=f"{__name__}:{LeastBusy.__name__}"),
        logging_config=quiet,
    )
    return deployed.bind(settings)


class Replica:
    """The server in one of the cluster's processes, with engines of its own.

    It is ready when the first artifact's default level is loaded, so that nothing is sent to one that cannot answer.
    """

    def __init__(self, settings: Settings) -> None:
        keep_no_core()  # of this process, which holds what is asked
        models = served(settings.artifacts, settings.levels, context=settings.context)
        keys = read_keys(settings.api_key_file)
        agreement = read_agreement(settings.terms) if settings.terms else None
        if need_agreement(models) and not agreement:
            raise UsageError("a cluster offers a model to others, who must get its terms of use", remedy="terms=FILE")
        names = ("slots", "queue", "context", "runtime")
        self._engines = MeasuredEngines(models, EngineOptions(**{name: getattr(settings, name) for name in names}))
        self._drain_s, limits = settings.drain_s, Limits()
        house = House(self._engines, self._engines.metrics, Life("ready"), limits, needs_key=True, agreement=agreement)
        door = Door(allowed_hosts("127.0.0.1", settings.port, settings.hosts), keys)
        routes = api.routes(Serving(self._engines))
        self._whole = Bounded(application(routes, page.routes(), house, door), limits.body_bytes)
        self._first = next(one for one in models if one.default)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve sends requests to, when it can answer them. Raises EngineFailed."""
        await self._engines.start([self._first])
        while (status := self._engines.status(self._first)).state in ("unloaded", "loading", "restarting"):
            await asyncio.sleep(_WATCHED_S)
        if status.state == "failed":
            await self._engines.close()
            raise EngineFailed(f"{self._first.id}: {status.problem}")
        return self._whole

    async def check_health(self) -> None:
        """Have Serve replace this replica where no model can be loaded; what merely restarts comes back by itself."""
        states = [self._engines.status(model) for model in self._engines.served]
        if all(state.state == "failed" for state in states):
            raise EngineFailed(states[0].problem or "no model can be loaded")

    async def __del__(self) -> None:
        """Serve awaits this at a replica's end, in the loop in which it began."""
        await self._engines.drain(self._drain_s)
        await self._engines.close()


class Bounded:
    """An application that reads bodies of a bounded size: of Serve's proxies nobody says how much they pass on.

    Args:
        most_bytes: of one request's body.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise BodyTooLarge where the application reads on beyond the bound; it answers that as all errors."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most_bytes:
                raise BodyTooLarge("the request's body is too large", allowed=f"up to {self._most_bytes} bytes")
            return message

        await self._app(scope, bounded, send)


class LeastBusy(RequestRouter):
    """Of all replicas the one that works on the fewest requests: an answer takes far longer than the way to it.

    A session's requests go to one replica while it takes any: it holds the images and the conversations so far.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas in ranks, of which Serve takes the least busy of the first that has one to take."""
        session = pending_request.metadata.session_id if pending_request else ""
        if not (session and candidate_replicas):
            return [candidate_replicas]
        return [[max(candidate_replicas, key=lambda one: _weight(session, one))], candidate_replicas]


def _weight(session: str, replica: RunningReplica) -> bytes:
    """Rendezvous hashing: where a replica comes or goes, only its own sessions move."""
    return hashlib.sha256(f"{session} {replica.replica_id.unique_id}".encode()).digest()


def middlewares() -> list[Middleware]:
    """For Serve's proxies, which $RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH tells to ask here."""
    return [Middleware(Lost)]


class Lost:
    """Says that a request's replica is gone: a proxy by itself sends a bare 500, or cuts a stream without a word."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and finish what the proxy left unfinished. A stream that was cut stays without its end."""
        began = ended = streams = False

        async def noted(message: Message) -> None:
            nonlocal began, ended, streams
            if message["type"] == "http.response.start":
                began = True
                streams = any(value.startswith(b"text/event-stream") for _, value in message.get("headers", ()))
            ended |= message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        await self._app(scope, receive, noted)
        if scope["type"] != "http" or ended:
            return
        error = EngineDied("the machine that worked on the request is gone", remedy="ask again", retry_after_s=1)
        if not began:
            await answers.response(error)(scope, receive, send)
        elif streams:
            event = b"data: " + answers.encoded(answers.body(error)) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
