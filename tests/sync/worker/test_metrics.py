"""Metrics of a worker: true counts of what it did, and a dashboard that asks for nothing else."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_backend.errors import BadInput, LeaseLost, StudioError
from sync.worker.look import LookReport
from sync.worker.loop import Worker
from sync.worker.metrics import WorkerMetrics, serve_metrics
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
ROOT = Path(__file__).resolve().parents[3]


def test_what_a_worker_did_is_served(make_world: MakeWorld) -> None:
    world = make_world(12)
    metrics = WorkerMetrics(world.store)
    worker = Worker(world.settings, world.store, world.studio, observer=metrics)
    world.label(*range(6))
    (look,) = worker.look_at_all()
    assert look.pushed is not None
    assert look.review is not None

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"groundswell_worker_{name}", labels)

    project = str(world.project_id)
    assert value("looks_total", project=project) == 1
    assert value("labels_pulled_total", project=project) == 6
    assert value("predictions_pushed_total", project=project) == look.pushed.sent > 0
    assert value("questions_total", project=project) == look.review.new > 0
    assert (value("trainings_total", project=project), value("round", project=project)) == (1, 1)
    assert (value("errors_total", project=project), value("projects"), value("queued_answers")) == (0, 1, 0)
    assert value("step_seconds_count", step="push") == 1
    assert value("last_look_timestamp_seconds", project=project) == pytest.approx(
        value("alive_timestamp_seconds", kind="sync"), abs=60
    )

    def refuse(name: str) -> None:
        raise StudioError("away")

    world.studio.before_call = refuse
    worker.look_at_all()
    world.studio.before_call = None
    assert (value("looks_total", project=project), value("errors_total", project=project)) == (2, 1)

    def lose(place: str) -> None:
        raise LeaseLost("another worker")

    Worker(world.settings, world.store, world.studio, checkpoint=lose, observer=metrics).look_at_all()
    assert value("leases_lost_total", project=project) == 1

    trained = value("trainings_total", project=project)
    errors = value("errors_total", project=project)
    metrics.trained(world.project_id, LookReport(world.project_id, trained="v"))
    metrics.trained(world.project_id, LookReport(world.project_id, error="no memory"))
    assert (trained, errors) == (1, 2)
    assert (value("trainings_total", project=project), value("errors_total", project=project)) == (2, 3)

    with serve_metrics(metrics, "127.0.0.1", 0) as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        assert f'groundswell_worker_looks_total{{project="{project}"}} 3.0' in text
        with pytest.raises(BadInput, match="another port"), serve_metrics(metrics, "127.0.0.1", port):
            pytest.fail("two servers on one port")


def test_a_store_that_is_away_hides_no_other_metric(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(1)
    metrics = WorkerMetrics(world.store)

    def away(store: object) -> list[int]:
        raise StudioError("away")

    monkeypatch.setattr("sync.worker.metrics.project_ids", away)
    found = metrics.registry.get_sample_value("groundswell_worker_projects")
    assert found is not None
    assert found != found, "NaN: nobody knows"


def test_every_metric_of_the_dashboard_exists(make_world: MakeWorld) -> None:
    from ml_backend.metrics import Metrics

    names = {
        f"{family.name}{suffix}"
        for registry in (WorkerMetrics(make_world(1).store).registry, Metrics().registry)
        for family in registry.collect()
        for suffix in {
            "counter": ("_total",),
            "gauge": ("",),
            "histogram": ("_bucket", "_sum", "_count"),
        }[family.type]
    }
    dashboard = json.loads((ROOT / "docker/grafana/groundswell.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    used = {name for text in asked for name in re.findall(r"\bgroundswell_\w+", text)}
    assert len(asked) >= 10
    assert used - names == set()
    # and every metric of the worker is shown somewhere
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in names if "_worker_" in name}
    assert families - {re.sub("_(total|bucket|sum|count)$", "", name) for name in used} == set()
