"""The figures at /metrics, in Prometheus' format: requests by route, answers by model, nothing of what was asked."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgekit.artifacts.version import __version__
from edgekit.errors import EdgekitError
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.requests import Begins, begins_unheard
from edgekit.serve.engines.served import Served
from edgekit.serve.engines.state import EngineOptions
from edgekit.serve.http.traffic import Answered
from edgekit.serve.jobs import Event, Job

# From a token of the reference model to a prompt of many images on two cores.
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_PER_SECOND = (0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self, engines: Engines) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("edgekit_requests", "HTTP requests", ("method", "route", "status"))
        self._answers = self._counter("edgekit_answers", "Questions to models, by how they ended", ("model", "outcome"))
        self._first = self._histogram("edgekit_first_token_seconds", "From a question to its first token", _SECONDS)
        self._speed = self._histogram("edgekit_tokens_per_second", "Of one answer, behind its first token", _PER_SECOND)
        build = Gauge("edgekit_build_info", "What runs", ("version", "python"), registry=self._registry)
        build.labels(__version__, platform.python_version()).set(1)
        self._registry.register(_States(engines))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def request(self, answered: Answered) -> None:
        """Count a request that has ended."""
        self._requests.labels(answered.method, answered.route, str(answered.status)).inc()

    def answer(self, model: str, outcome: str) -> None:
        """Count a question to a model that ended: `answered`, `cancelled`, `failed`, or its EdgekitError's type."""
        self._answers.labels(model, outcome).inc()

    def first_token(self, model: str, seconds: float) -> None:
        """Note after how long the first token of an answer came."""
        self._first.labels(model).observe(seconds)

    def speed(self, model: str, tokens_per_s: float) -> None:
        """Note how fast the tokens of an answer came."""
        self._speed.labels(model).observe(tokens_per_s)

    def _counter(self, name: str, said: str, labels: Sequence[str]) -> Counter:
        return Counter(name, said, labels, registry=self._registry)

    def _histogram(self, name: str, said: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, said, ("model",), buckets=buckets, registry=self._registry)


class _States(Collector):
    """How the engines are at the moment at which somebody looks."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        gauges = {
            "queued": GaugeMetricFamily("edgekit_queue_length", "Questions that wait", labels=("model",)),
            "running": GaugeMetricFamily("edgekit_slots_busy", "Questions that are being answered", labels=("model",)),
            "slots": GaugeMetricFamily("edgekit_slots", "Questions that can be answered at once", labels=("model",)),
        }
        restarts = CounterMetricFamily("edgekit_engine_restarts", "Engines started again", labels=("model",))
        states = GaugeMetricFamily("edgekit_engine_state", "1 for the state that it is in", labels=("model", "state"))
        for model in self._engines.served:
            status = self._engines.status(model)
            for field, gauge in gauges.items():
                gauge.add_metric((model.id,), getattr(status, field))
            restarts.add_metric((model.id,), status.restarts)
            states.add_metric((model.id, status.state), 1)
        return [*gauges.values(), restarts, states]


class MeasuredEngines(Engines):
    """Engines whose answers are counted and timed.

    Attributes:
        metrics: the figures.
    """

    def __init__(self, served: Sequence[Served], options: EngineOptions) -> None:
        super().__init__(served, options)
        self.metrics = Metrics(self)

    def ask(self, served: Served | str, job: Job, begins: Begins = begins_unheard) -> AsyncGenerator[Event, None]:
        """As `Engines.ask`."""
        model = self.find(served) if isinstance(served, str) else served
        return measured(super().ask(model, job, begins), model.id, self.metrics)


async def measured(events: AsyncGenerator[Event, None], model: str, metrics: Metrics) -> AsyncGenerator[Event, None]:
    """What comes of a job of a model, counted and timed on its way."""
    began, outcome, first = time.perf_counter(), "failed", True
    try:
        async with aclosing(events):
            async for event in events:
                if first and event.kind == "piece":
                    metrics.first_token(model, time.perf_counter() - began)
                    first = False
                if event.kind == "answer" and event.body.get("decode_s"):
                    metrics.speed(model, (event.body["output_tokens"] - 1) / event.body["decode_s"])
                yield event
        outcome = "answered"
    except (GeneratorExit, asyncio.CancelledError):
        outcome = "cancelled"
        raise
    except EdgekitError as error:
        outcome = type(error).__name__
        raise
    finally:
        metrics.answer(model, outcome)
