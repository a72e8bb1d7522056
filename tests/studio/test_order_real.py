"""A real Label Studio serves exactly the intended order, to two people at once, before and after training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.artifacts.task_orders import read_order
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS, get_learner
from sync.rounds.progress import Progress
from sync.rounds.project import OpenProject, open_project
from sync.rounds.registration import register_project
from sync.rounds.round_records import trained_round
from sync.rounds.start_order import START, start_version
from sync.store.database import Store
from sync.studio.client import Studio
from sync.worker.loop import Worker
from tests.studio.conftest import Site
from tests.sync import tiny_learner
from tests.sync.conftest import LABELS, Scene

pytestmark = pytest.mark.studio
N_IMAGES, FIRST = 18, 6


class Place:
    """A project on the real server whose config shows the reason of each task."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        (folder / "pictures").mkdir()
        self.scenes = [Scene(seed) for seed in range(N_IMAGES)]
        paths = []
        for i, scene in enumerate(self.scenes):
            paths.append(folder / "pictures" / f"scene{i:02d}.png")
            Image.fromarray(scene.image).save(paths[-1])
        config = build_label_config(LABELS, why=True)
        self.project = site.studio.create_project("served in order", config).id
        self.tasks = site.studio.upload_images(self.project, paths)
        self.settings = site.settings.model_copy(
            update={
                "learner": tiny_learner.NAME,
                "min_finished": FIRST,
                "question_budget": 0,
                "push_interval_s": 0.0,
                "order_explore": 0.2,
                "order_start": True,
            }
        )
        self.store = Store(self.settings.database())
        register_project(self.settings, self.store, site.studio, self.project)

    def look(self) -> None:
        report = Worker(self.settings, self.store, self.site.studio).look(self.project)
        assert report is not None
        assert report.error == ""

    def open(self) -> OpenProject:
        return open_project(self.settings, self.store, self.site.studio, self.project)

    def order(self, name: str) -> list[int]:
        found = read_order(self.open().paths.order(name))
        assert found is not None
        assert len(set(found.score.tolist())) == len(found)
        return [int(task) for task in found.task_id[np.argsort(found.score)]]


@pytest.fixture
def place(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)

    def train_here(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train_here)
    made = Place(site, tmp_path)
    yield made
    made.store.close()
    site.studio.delete_project(made.project)


def play(place: Place, people: list[Studio], count: int) -> list[int]:
    """Both people have a task open all the time; they finish in turns. What they got, in order."""
    held = [person.next_task(place.project) for person in people]
    got = [task.id for task in held if task is not None]
    done = 0
    while done < count:
        turn = done % len(people)
        task = held[turn]
        if task is None:
            break
        scene = place.scenes[place.tasks.index(task.id)]
        people[turn].create_annotation(task.id, scene.result(), lead_time_s=5.0)
        done += 1
        held[turn] = people[turn].next_task(place.project) if done <= count - len(people) else None
        if held[turn] is not None:
            got.append(held[turn].id)  # type: ignore[union-attr]
    return got


def test_two_people_are_served_the_intended_order(place: Place, site: Site) -> None:
    people = [site.studio.as_user(f"{name}-order@example.com", "a long password") for name in ("ann", "bob")]
    place.look()  # no label yet: typical pictures first
    version = start_version(place.project)
    assert site.studio.prediction_versions(place.project) == {version: N_IMAGES}
    expected = place.order(START)
    assert play(place, people, FIRST) == expected[:FIRST]

    place.look()  # trains, and pushes its own order
    record = trained_round(place.open().db)
    assert record is not None
    assert list(site.studio.prediction_versions(place.project)) == [record.pushed]
    expected = place.order(record.model_version)
    finished = {task.id for task in site.studio.tasks(place.project) if task.is_labeled}
    assert set(expected) == set(place.tasks) - finished
    scores = {task: site.studio.predictions(task)[0].score for task in expected}
    assert list(scores.values()) == sorted(set(scores.values())), "the server keeps every digit that matters"
    texts = [
        item["value"]["text"]
        for task in expected
        for item in site.studio.predictions(task)[0].result
        if item["type"] == "textarea"
    ]
    assert len(texts) == len(expected)

    # a picture that comes later gets a place between two others; those who work are not disturbed
    (new,) = site.studio.import_tasks(place.project, [site.studio.task(expected[3]).data])
    place.scenes.append(place.scenes[place.tasks.index(expected[3])])
    place.tasks.append(new)
    place.look()
    later = place.order(record.model_version)
    assert [task for task in later if task != new] == expected
    assert play(place, people, len(later)) == later
