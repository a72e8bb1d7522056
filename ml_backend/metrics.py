"""Prometheus metrics of the backend.

One ``Metrics`` per app, with a registry of its own, so that several apps (tests) live in one process. With
several gunicorn workers set ``PROMETHEUS_MULTIPROC_DIR`` to an empty folder before the start: values are
then kept in files there and ``/metrics`` adds up all workers.

No label holds a task, a file or a project: the code bounds how many different values a label has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ml_backend.device_fallback import DeviceChange

__all__ = ["Metrics"]

_NAMESPACE: Final = "groundswell"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms; methods are safe under threads.

    ``groundswell_phase_seconds{phase}`` times fetch, decode, encode, wait, segment, predict, serialise.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._phase = Histogram(
            "phase_seconds",
            "Time in one phase of an answer",
            ["phase"],
            buckets=_BUCKETS,
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._request = Histogram(
            "request_seconds",
            "Time of a request",
            ["route", "status"],
            buckets=_BUCKETS,
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._predictions = Counter(
            "predictions",
            "Tasks answered, by where the answer came from",
            ["source"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._failures = Counter(
            "task_failures",
            "Tasks left without a prediction because of an error",
            ["reason"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._clicks = Counter(
            "clicks", "Interactive requests by outcome", ["outcome"], namespace=_NAMESPACE, registry=registry
        )
        self._webhooks = Counter(
            "webhooks", "Webhook calls by action", ["action"], namespace=_NAMESPACE, registry=registry
        )

        self._fallbacks = Counter(
            "device_fallbacks",
            "Times a model left its device for the CPU, mostly for want of memory",
            ["model"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._off_device = Gauge(
            "models_off_device",
            "Models that run on the CPU although another device was asked for",
            ["model"],
            namespace=_NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )

    def observe(self, phase: str, seconds: float) -> None:
        """Note the time of one phase (also handed to the click service)."""
        self._phase.labels(phase).observe(seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block as one phase, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - began)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note a request; ``route`` is the rule of the route, never the path as it came."""
        self._request.labels(route, str(status)).observe(seconds)

    def predicted(self, source: str, count: int = 1) -> None:
        """Count tasks answered from ``store``, by the ``model``, or ``none``."""
        if count:
            self._predictions.labels(source).inc(count)

    def failed(self, reason: str) -> None:
        """Count a task left without a prediction; ``reason`` is the class of the error."""
        self._failures.labels(reason).inc()

    def clicked(self, outcome: str) -> None:
        """Count an interactive request: ``ok``, or the class of its error."""
        self._clicks.labels(outcome).inc()

    def hooked(self, action: str) -> None:
        """Count a webhook call; the caller bounds the set of actions."""
        self._webhooks.labels(action).inc()

    def device_changed(self, change: DeviceChange) -> None:
        """Note that a model left its device for the CPU, or is back on it."""
        if change.fell_back:
            self._fallbacks.labels(change.model).inc()
        self._off_device.labels(change.model).set(int(change.fell_back))

    def render(self) -> bytes:
        """The text that Prometheus reads, of all processes where there are several."""
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            merged = CollectorRegistry()
            MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
            return generate_latest(merged)
        return generate_latest(self.registry)
