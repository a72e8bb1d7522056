"""An early version on a real Label Studio: people see it first, then that of the whole training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_backend.learners.registry import LEARNERS
from sync.studio.client import Studio
from tests.studio.test_kill_real import N_LABELLED, OPTIONS
from tests.studio.test_loop_real import KILL_SITE, REPO
from tests.sync import tiny_learner
from tests.sync.conftest import World

pytestmark = pytest.mark.studio


def test_the_early_version_is_shown_and_then_replaced(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    monkeypatch.setenv("PYTHONPATH", f"{KILL_SITE}{os.pathsep}{REPO}")  # the training process knows it too
    monkeypatch.setenv("TINY_EARLY_AP", "0.2")
    world = World(tmp_path / "early", 16, studio, **OPTIONS | {"studio_url": studio.url})  # type: ignore[arg-type]
    world.label(*range(N_LABELLED))
    open_tasks = set(world.tasks[N_LABELLED:])
    shown = []
    for number in (1, 2):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert (report.round, report.error) == (number, "")
        shown.append(studio.project(world.project_id).model_version)
        assert shown[-1].startswith(report.trained)
        assert studio.prediction_versions(world.project_id) == {shown[-1]: len(open_tasks)}
        assert studio.predicted_tasks(world.project_id, shown[-1]) == open_tasks
        assert bool(world.review_projects()) == (number == 2), "questions wait for the whole training"
        served = studio.next_task(world.project_id)
        assert served is not None
        assert studio.predictions(served.id)[0].result
    assert shown[0] != shown[1]
    for project in (*world.review_projects().values(), world.project_id):
        studio.delete_project(project)
    world.store.close()
