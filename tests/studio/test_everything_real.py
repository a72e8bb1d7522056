"""Masks of everything before the first label, on a real Label Studio: there once, replaced by a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS, get_learner
from ml_backend.masks.rle import encode_mask
from sync.projects.init_project import init_project
from sync.store.database import Store
from sync.worker.loop import Worker
from tests.studio.conftest import Site
from tests.sync import tiny_learner
from tests.sync.conftest import HW, Scene

pytestmark = pytest.mark.studio

SCENES = [Scene(seed) for seed in range(6)]
OPTIONS = {
    "learner": tiny_learner.NAME,
    "cold_start": "everything",
    "cold_start_options": {"segmenter": "classical"},
    "question_budget": 0,
    "train_clicks": False,
}


@pytest.fixture(autouse=True)
def _learners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)

    def train_here(progress: Any, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train_here)


def _versions(site: Site, project: int) -> dict[int, list[str]]:
    """Versions of the predictions of each task; every prediction is valid and has a mask."""
    config = parse_label_config(site.studio.project(project).label_config)
    found: dict[int, list[str]] = {}
    for task in sorted(site.studio.task_ids(project)):
        for prediction in site.studio.predictions(task):
            assert validate_result(prediction.result, config, prediction.score, deep=True) == []
            assert any("rle" in item["value"] for item in prediction.result)
            found.setdefault(task, []).append(prediction.model_version)
    return found


def test_masks_of_everything_come_once_and_go_with_the_first_round(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, scene in enumerate(SCENES):
        Image.fromarray(scene.image).save(folder / f"{i:03d}.png")
    name = f"everything {site.settings.data_dir.parent.name[-24:]}"
    with pytest.raises(BadInput, match="which label"):
        init_project(
            site.studio, title=name, images=folder, labels=("a", "b"), settings=site.settings, options=OPTIONS
        )
    made = init_project(
        site.studio, title=name, images=folder, labels=("thing",), settings=site.settings, options=OPTIONS
    )
    worker = Worker(site.settings, Store(site.settings.database()), site.studio)
    report = worker.look(made.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 1)
    tasks = sorted(site.studio.task_ids(made.project_id))
    first = _versions(site, made.project_id)
    shown = site.studio.project(made.project_id).model_version
    assert first == {task: [shown] for task in tasks}
    for _ in range(2):
        report = worker.look(made.project_id)
        assert report is not None
        assert (report.error, report.round, report.pushed) == ("", 1, None)
    assert _versions(site, made.project_id) == first

    config = parse_label_config(site.studio.project(made.project_id).label_config)
    drawn = {}
    for task, scene in list(zip(tasks, SCENES, strict=True))[:4]:
        regions = [
            Region(f"r{i}", "mask", "thing", encode_mask(mask), (0.0, 0.0, 1.0, 1.0))
            for i, (_, mask) in enumerate(scene.masks)
        ]
        drawn[task] = to_result(regions, config, HW)
        site.studio.create_annotation(task, drawn[task])
    report = worker.look(made.project_id, force_round=True)
    assert report is not None
    assert (report.error, report.round) == ("", 2)
    after = _versions(site, made.project_id)
    assert set(after) == set(tasks[4:])
    (trained,) = {version for versions in after.values() for version in versions}
    assert trained != shown
    assert all(len(versions) == 1 for versions in after.values())
    for task, result in drawn.items():
        (kept,) = site.studio.task(task).annotations
        assert [item["value"] for item in kept.result] == [item["value"] for item in result]
    for number in (made.review_project_id, made.project_id):
        site.studio.delete_project(number)
