"""Cold start, a new test split, and a model of another project, on a real Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS, get_learner
from ml_backend.masks.rle import encode_mask
from sync.projects.init_project import InitReport, init_project
from sync.rounds.given_rounds import find_model
from sync.rounds.history import history
from sync.rounds.project import OpenProject, open_project
from sync.rounds.round_records import current_round
from sync.rounds.task_queries import finished_digests
from sync.rounds.test_split import newest_split, repartition
from sync.store.database import Store
from sync.worker.loop import Worker
from sync.worker.take_over import take_over
from tests.studio.conftest import Site
from tests.sync import tiny_learner
from tests.sync.conftest import HW, LABELS, Scene

pytestmark = pytest.mark.studio

COLD = {
    "learner": tiny_learner.NAME,
    "cold_start": tiny_learner.COLD_NAME,
    "cold_start_options": {"colours": {"disc": [220, 60, 60], "bar": [60, 220, 60]}},
    "question_budget": 0,
    "train_clicks": False,
}
SCENES = [Scene(seed) for seed in range(8)]


@pytest.fixture(autouse=True)
def _learners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny learners, trained in this process."""
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    monkeypatch.setitem(LEARNERS, tiny_learner.COLD_NAME, tiny_learner.COLD_TARGET)

    def train_here(progress: Any, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train_here)


def _make(site: Site, folder: Path, title: str, **more: Any) -> InitReport:
    folder.mkdir(exist_ok=True)
    for i, scene in enumerate(SCENES):
        Image.fromarray(scene.image).save(folder / f"{i:03d}.png")
    name = f"{title} {site.settings.data_dir.parent.name[-24:]}"
    return init_project(site.studio, title=name, images=folder, settings=site.settings, **more)


def _shown(site: Site, project: int) -> dict[int, list[str]]:
    """Labels that annotators see, by task; every prediction is valid and of the version that is shown."""
    row = site.studio.project(project)
    config = parse_label_config(row.label_config)
    found = {}
    for task in sorted(site.studio.task_ids(project)):
        for prediction in site.studio.predictions(task):
            assert prediction.model_version == row.model_version
            assert validate_result(prediction.result, config, prediction.score, deep=True) == []
            drawn = [item["value"].get("labels") for item in prediction.result]
            found[task] = sorted(labels[0] for labels in drawn if labels)
    return found


def _draw(site: Site, project: int, task: int, scene: Scene) -> None:
    """A person draws every object of a scene with the tools of the project."""
    config = parse_label_config(site.studio.project(project).label_config)
    regions = [
        Region(f"r{i}", "mask", label, encode_mask(mask), (0.0, 0.0, 1.0, 1.0))
        for i, (label, mask) in enumerate(scene.masks)
    ]
    site.studio.create_annotation(task, to_result(regions, config, HW))


def _open(site: Site, store: Store, project: int) -> OpenProject:
    return open_project(site.settings, store, site.studio, project)


def test_first_predictions_come_before_any_label_and_serve_another_project(
    site: Site, tmp_path: Path
) -> None:
    made = _make(site, tmp_path / "images", "cold", labels=LABELS, options=COLD)
    store = Store(site.settings.database())
    worker = Worker(site.settings, store, site.studio)
    report = worker.look(made.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 1)
    tasks = sorted(site.studio.task_ids(made.project_id))
    truth = [sorted(label for label, _ in scene.masks) for scene in SCENES]
    assert _shown(site, made.project_id) == dict(zip(tasks, truth, strict=True))

    for number in range(6):
        _draw(site, made.project_id, tasks[number], SCENES[number])
    report = worker.look(made.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 2)
    assert set(_shown(site, made.project_id)) == set(tasks[6:])
    project = _open(site, store, made.project_id)
    finished = sorted(finished_digests(project.db))
    drawn = repartition(project.db, project.settings, project.paths, finished, fraction=0.5)
    report = worker.look(made.project_id, force_round=True)
    assert report is not None
    assert (report.error, report.round) == ("", 3)
    assert newest_split(project.db) == drawn
    assert [row.split for row in history(project.db, site.settings)] == [1, 2]
    trained = current_round(project.db)
    assert trained is not None

    other = _make(
        site, tmp_path / "images", "taken", labels=("round", "long"), options={"question_budget": 0}
    )
    named = {"disc": "round", "bar": "long"}
    model = find_model(site.settings, trained.model_version)
    for expected in (8, None):
        done = take_over(site.settings, store, site.studio, other.project_id, model, named=named)
        assert (done.pushed and done.pushed.tasks) == expected
    shown = _shown(site, other.project_id)
    assert list(shown.values()) == [sorted(named[label] for label in labels) for labels in truth]
    for number in (made.review_project_id, other.review_project_id, made.project_id, other.project_id):
        site.studio.delete_project(number)
