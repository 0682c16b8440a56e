"""`edgekit serve`: answer over HTTP, as OpenAI's clients ask."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.commands import Verb
from edgekit.commands.support.decoding import add_cache_type
from edgekit.commands.support.options import add_artifact, add_levels, add_opening
from edgekit.errors import UsageError
from edgekit.serve.http.logs import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.serve.engines.pool import Engines
    from edgekit.serve.engines.served import Served
    from edgekit.serve.http.keys import Keys

_MOST_SLOTS, _MOST_QUEUE, _MOST_PORT, _MOST_DRAIN_S = 64, 10_000, 65_535, 3600
_WATCHED_S = 0.1  # between two looks at models that load


def add_options(parser: ArgumentParser) -> None:
    """What is served, to whom, and how much at once."""
    add_artifact(parser, several=True)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on (default: 127.0.0.1)")
    add("--port", type=_count(0, _MOST_PORT), default=8080, metavar="N", help="0 takes a free one (default: 8080)")
    add("--api-key-file", type=Path, metavar="FILE", help="keys, one a line, that only you may read (mode 600)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a name of this server; may be repeated")
    add("--terms", type=Path, metavar="FILE", help="the models' whole terms of use, which /terms hands to each user")
    add_levels(parser, "serve this level; all that are there without it")
    add_opening(parser, level=False)
    add_cache_type(parser)
    add("--slots", type=_count(1, _MOST_SLOTS), metavar="N", help="answers of one model at once (default: by memory)")
    add("--queue", type=_count(0, _MOST_QUEUE), default=64, metavar="N", help="requests that may wait (default: 64)")
    add(
        "--preload",
        choices=("first", "all", "none"),
        default="first",
        help="load before the first question: the first artifact's default level, that of every one, or none",
    )
    add(
        "--drain-s",
        type=_count(0, _MOST_DRAIN_S),
        default=30,
        metavar="S",
        help="how long running answers may go on after Ctrl-C or SIGTERM, whose second ends them (default: 30)",
    )
    add("--log-level", choices=LEVELS, default="info", help="(default: info)")


def run(options: Namespace) -> int:
    """Check everything, listen, serve until told to end."""
    from edgekit.artifacts.licenses import read_agreement
    from edgekit.machine.resident import keep_no_core
    from edgekit.runtime import tuning_results
    from edgekit.serve.engines.served import served
    from edgekit.serve.http import guard, logs
    from edgekit.serve.http.keys import read_keys
    from edgekit.serve.http.server import listen

    models = served(options.folders, options.level, context=options.context, device=options.device)
    tuning_results.named(options.runtime)
    keys = read_keys(options.api_key_file) if options.api_key_file else None
    agreement = read_agreement(options.terms) if options.terms else None
    _check_network(options.host, keys, agreement, models)
    guard.allowed_hosts(options.host, options.port, options.allow_host)
    keep_no_core()  # of this process, which holds what is asked; engines see to it themselves
    with listen(options.host, options.port) as listening:
        logs.begin(options.log_level)
        return asyncio.run(_served(options, models, keys, agreement, listening))


def _check_network(host: str, keys: Keys | None, agreement: str | None, models: Sequence[Served]) -> None:
    """Raise UsageError where others would be served without a key, or without the terms that they are bound by."""
    from edgekit.serve.http.server import is_loopback
    from edgekit.serve.http.terms import need_agreement

    if is_loopback(host):
        return
    if not keys:
        raise UsageError(f"--host {host} serves a network without a key", remedy="--api-key-file FILE")
    if not agreement and need_agreement(models):
        raise UsageError(
            f"--host {host} offers a model to others, who must get its terms of use",
            remedy="--terms FILE, with the whole text of the page that `edgekit inspect` names as the licence",
        )


async def _served(
    options: Namespace, models: Sequence[Served], keys: Keys | None, agreement: str | None, listening: Any
) -> int:
    from edgekit.machine.interrupts import signals_call
    from edgekit.serve import api
    from edgekit.serve.api.serving import Serving
    from edgekit.serve.engines.state import EngineOptions
    from edgekit.serve.http import app, guard
    from edgekit.serve.http.house import House, Life
    from edgekit.serve.http.limits import Limits
    from edgekit.serve.http.metrics import MeasuredEngines
    from edgekit.serve.http.server import Plan, Server
    from edgekit.serve.page import files

    names = ("slots", "queue", "context", "device", "runtime", "cache_type")
    engines = MeasuredEngines(models, EngineOptions(**{name: getattr(options, name) for name in names}))
    port = listening.getsockname()[1]
    life = Life()
    house = House(engines, engines.metrics, life, Limits(), keys is not None, agreement)
    door = app.Door(guard.allowed_hosts(options.host, port, options.allow_host), keys)
    whole = app.application(api.routes(Serving(engines)), files.routes(), house, door)
    first = [one for one in models if one.default][: {"first": 1, "all": None, "none": 0}[options.preload]]
    plan = Plan(lambda: _loaded(engines, first), options.drain_s, house.limits)
    server = Server(whole, life, engines, plan)
    received: list[int] = []

    def ended_by(number: int) -> None:
        received.append(number)
        server.end()

    _announce(options, models, keys is not None, port)
    with signals_call(ended_by):
        await server.run_on(listening)
    return 128 + received[-1] if server.was_forced else 0


async def _loaded(engines: Engines, models: Sequence[Served]) -> None:
    """Load models, and say of each that failed why; a later request tries again."""
    from edgekit.terminal import say

    await engines.start(models)
    for model in models:
        while (status := engines.status(model)).state in ("unloaded", "loading"):
            await asyncio.sleep(_WATCHED_S)
        if status.state == "failed":
            say(f"{model.id}: {status.problem}")


def _announce(options: Namespace, models: Sequence[Served], needs_key: bool, port: int) -> None:
    """Say where, for whom, what and under which terms, a line each; with --json as one line on standard output."""
    from edgekit.commands.support.printing import print_json
    from edgekit.serve.http.guard import EVERYWHERE
    from edgekit.serve.http.server import is_loopback
    from edgekit.serve.http.terms import NOT_CLEARED
    from edgekit.terminal import say

    host = "localhost" if options.host in EVERYWHERE else options.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if options.json:
        rows = [{"id": one.id, "aliases": list(one.aliases), "stand_in": one.stand_in} for one in models]
        print_json({"url": url, "models": rows, "needs_key": needs_key}, indent=None)
    names = ", ".join(alias for one in models for alias in one.aliases)
    licences = dict.fromkeys(one.license.splitlines()[0] for one in models)
    stand_ins = dict.fromkeys(one.stand_in for one in models if one.stand_in)
    key = "with a key" if needs_key else "without a key"
    everywhere = ", on every address of this machine" if options.host in EVERYWHERE else ""
    reach = "on this machine alone" if is_loopback(options.host) else "unencrypted: on a network that you trust alone"
    say(f"the page: {url}; for programs: {url}/v1")
    say(f"{key}{everywhere}, {reach}")
    say(f"models: {names}")
    for line in (*filter(None, stand_ins), f"licence: {', '.join(licences)}", NOT_CLEARED):
        say(line)


def _count(least: int, most: int) -> Any:
    """A type for argparse: a whole number of a range."""

    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) <= most):
            raise ArgumentTypeError(f"{text!r:.80} is no whole number from {least} to {most}")
        return int(text)

    return count


VERB = Verb(
    "answer over HTTP, as OpenAI's clients ask",
    (
        "serve ./medgemma",
        "serve ./medgemma ./medsiglip --level Q4_0 --level int8 --port 8081",
        "serve ./medgemma --host 0.0.0.0 --api-key-file keys --terms terms.txt --allow-host clinic.local",
    ),
    run,
    add_options,
    order=95,
)
