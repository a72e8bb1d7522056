"""More like this on a real Label Studio: shown once, served, replaced by the first round."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ml_backend.learners.registry import LEARNERS
from sync.cli import build_app
from sync.studio.client import Studio
from tests.conftest import LOGIN
from tests.studio.test_kill_real import OPTIONS
from tests.studio.test_loop_real import KILL_SITE, REPO
from tests.sync import tiny_learner
from tests.sync.conftest import World

pytestmark = pytest.mark.studio


def test_offered_masks_come_once_and_the_round_replaces_them(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    monkeypatch.setenv("PYTHONPATH", f"{KILL_SITE}{os.pathsep}{REPO}")  # the training process knows it too
    world = World(
        tmp_path / "alike",
        8,
        studio,  # type: ignore[arg-type]
        **OPTIONS | {"studio_url": studio.url, "min_finished": 3, "question_budget": 0},
    )
    names = {str(task.data["image"]).rsplit("-", 1)[-1]: task.id for task in studio.tasks(world.project_id)}
    world.tasks = [names[f"{number:03d}.png"] for number in range(8)]
    monkeypatch.setenv("GROUNDSWELL_ALLOW_IMAGE_DIRS", str(world.images))
    world.label(0)
    command = ["more-like-this", "--project", str(world.project_id), "--k", "6", "--json"]
    command += ["--data-dir", str(world.settings.data_dir)]
    command += ["--studio-url", studio.url, "--api-key", LOGIN.token]

    def call(*more: str) -> dict[str, object]:
        done = CliRunner().invoke(build_app(), [*command, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, object] = json.loads(done.stdout)
        return found

    assert call("--dry-run")["version"] == ""
    assert not studio.prediction_versions(world.project_id)
    first = call()
    open_tasks = set(world.tasks[1:])
    version = str(first["version"])
    assert first["sent"] == len(open_tasks)
    assert studio.prediction_versions(world.project_id) == {version: len(open_tasks)}
    assert studio.project(world.project_id).model_version == version
    again = call()
    assert (again["version"], again["sent"]) == (version, 0)
    assert studio.prediction_versions(world.project_id) == {version: len(open_tasks)}
    rows = {task: studio.predictions(task)[0] for task in open_tasks}
    shown = [item for row in rows.values() for item in row.result]
    assert len({item["id"] for item in shown}) == len(first["offers"])  # type: ignore[arg-type]
    served = studio.next_task(world.project_id)
    assert served is not None
    assert served.id == min(rows, key=lambda task: rows[task].score)

    world.label(1, 2)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    label = studio.project(world.project_id).model_version
    assert label.startswith(report.trained)
    assert studio.prediction_versions(world.project_id) == {label: len(open_tasks) - 2}
    drawn = [a for a in studio.task(world.tasks[0]).annotations if not a.was_cancelled]
    assert len(drawn) == 1
    assert len(drawn[0].result) == len(world.scenes[0].result())
    for project in (*world.review_projects().values(), world.project_id):
        studio.delete_project(project)
    world.store.close()
