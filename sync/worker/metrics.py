"""Prometheus metrics of a worker, served on a port of its own while the worker runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ml_backend.errors import BadInput, GroundswellError
from sync.review.outbox import waiting
from sync.rounds.registration import project_ids
from sync.store.database import Store
from sync.store.schedule import Kind
from sync.worker.look import LookReport
from sync.worker.observer import Observer

__all__ = ["WorkerMetrics", "serve_metrics"]

_NAMESPACE: Final = "groundswell_worker"
_BUCKETS: Final = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)


class WorkerMetrics(Observer):
    """What a worker did since it started, and what waits in the store.

    No label holds a task or a file. ``project`` is the number of a project, of which an installation has few.
    """

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        self._store = store
        self._steps: dict[tuple[int, str], float] = {}

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["project"], namespace=_NAMESPACE, registry=self.registry)

        self._looks = counter("looks", "Looks at a project")
        self._errors = counter("errors", "Looks and trainings that ended with an error")
        self._labels = counter("labels_pulled", "Annotations read from Label Studio, new or changed")
        self._predictions = counter("predictions_pushed", "Predictions sent to Label Studio")
        self._questions = counter("questions", "Questions asked")
        self._trainings = counter("trainings", "Trainings that made a model version")
        self._lost = counter("leases_lost", "Looks that ended because another worker took the project over")
        self._round = self._gauge("round", "Number of the present round", ["project"])
        self._last = self._gauge(
            "last_look_timestamp_seconds", "When the last look at a project ended", ["project"]
        )
        self._alive = self._gauge("alive_timestamp_seconds", "When work of this kind last moved", ["kind"])
        self._seconds = Histogram(
            "step_seconds",
            "Time of a step of a look",
            ["step"],
            buckets=_BUCKETS,
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        self._look_seconds = Histogram(
            "look_seconds",
            "Time of a look",
            buckets=_BUCKETS,
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        self._gauge("projects", "Projects that take part", []).set_function(
            lambda: self._ask(lambda: len(project_ids(store)))
        )
        self._gauge(
            "queued_answers", "Answers of the review page that wait for Label Studio", []
        ).set_function(lambda: self._ask(self._queued))

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, namespace=_NAMESPACE, registry=self.registry)

    def alive(self, kind: Kind, project_id: int | None) -> None:
        self._alive.labels(kind).set(time.time())

    def progressed(self, project_id: int, step: str, share: float) -> None:
        now = time.monotonic()
        began = self._steps.setdefault((project_id, step), now)
        if share >= 1.0:
            self._seconds.labels(step).observe(now - began)
            del self._steps[project_id, step]

    def looked(self, project_id: int, found: LookReport | None, seconds: float) -> None:
        for project, step in list(self._steps):
            if project == project_id and step != "train":  # that goes on beside looks
                self._steps.pop((project, step), None)
        if found is None:  # another worker holds it, and counts it
            return
        number = str(project_id)
        self._looks.labels(number).inc()
        self._look_seconds.observe(seconds)
        self._last.labels(number).set(time.time())
        self._errors.labels(number).inc(bool(found.error))
        self._trainings.labels(number).inc(bool(found.trained))
        if found.pulled is not None:
            self._labels.labels(number).inc(
                found.pulled.annotations_created + found.pulled.annotations_changed
            )
        if found.pushed is not None:
            self._predictions.labels(number).inc(found.pushed.sent)
        if found.review is not None:
            self._questions.labels(number).inc(found.review.new)
        if found.round is not None:
            self._round.labels(number).set(found.round)

    def trained(self, project_id: int, found: LookReport) -> None:
        self._steps.pop((project_id, "train"), None)  # of one that ended early
        self._errors.labels(str(project_id)).inc(bool(found.error))
        self._trainings.labels(str(project_id)).inc(bool(found.trained))

    def lease_lost(self, project_id: int) -> None:
        self._lost.labels(str(project_id)).inc()

    def _queued(self) -> int:
        with self._store.read() as session:
            return waiting(session).count

    @staticmethod
    def _ask(count: Callable[[], int]) -> float:
        """NaN while the store is away: the other metrics are shown all the same."""
        try:
            return float(count())
        except GroundswellError:
            return float("nan")


@contextmanager
def serve_metrics(metrics: WorkerMetrics, host: str, port: int) -> Iterator[int]:
    """Serve ``/metrics`` in a thread; gives the port, of 0 a free one. Raises BadInput when it is taken."""
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise BadInput(
            f"metrics cannot be served on {host}:{port}: {error.strerror}",
            field="metrics_port",
            hint="Give another port",
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
