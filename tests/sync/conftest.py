"""A small project on the fake Label Studio: images on disk, masks, and a worker's view of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS, get_learner
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.review.figures import ReviewReport
from sync.review.question import Question
from sync.review.review_tasks import read_questions
from sync.rounds.progress import Progress
from sync.rounds.project import OpenProject, open_project
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.worker.loop import Worker
from tests.fakes.label_studio import FakeStudio
from tests.s3 import new_bucket, s3_process
from tests.sync import tiny_learner

LABELS = ("disc", "bar")
CONFIG_XML = build_label_config(LABELS)
HW = (48, 64)


class Scene:
    """One generated image with its true masks: bright discs and bars on dark noise."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(20, 60, (*HW, 3)).astype(np.uint8)
        self.masks: list[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]] = []
        y, x = np.mgrid[: HW[0], : HW[1]]
        for column in range(3):
            cx, cy = 11 + 21 * column, int(rng.integers(14, 34))
            label = LABELS[int(rng.integers(2))]
            if label == "disc":
                mask = (x - cx) ** 2 + (y - cy) ** 2 <= int(rng.integers(5, 9)) ** 2
            else:
                mask = (abs(x - cx) <= 3) & (abs(y - cy) <= int(rng.integers(7, 12)))
            self.image[mask] = (220, 60, 60) if label == "disc" else (60, 220, 60)
            self.masks.append((label, mask))

    def result(self) -> list[dict[str, Any]]:
        """The annotation a careful person would draw."""
        regions = []
        for i, (label, mask) in enumerate(self.masks):
            regions.append(Region(f"r{i}", "mask", label, encode_mask(mask), (0.0, 0.0, 1.0, 1.0)))
        return to_result(regions, parse_label_config(CONFIG_XML), HW)


class World:
    """Images, a Label Studio project over them, and the worker's store and settings."""

    def __init__(
        self,
        folder: Path,
        n_images: int,
        studio: FakeStudio | None = None,
        *,
        in_file: bool = False,
        config: str = CONFIG_XML,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.empty_place: Callable[[], dict[str, Any]] = dict
        """settings that, with another data_dir, are those of an installation where nothing is yet"""
        self.images = images = folder.parent / f"images{n_images}"  # the same for twin worlds of a test
        images.mkdir(exist_ok=True)
        self.scenes = [Scene(seed) for seed in range(n_images)]
        for i, scene in enumerate(self.scenes):
            Image.fromarray(scene.image).save(images / f"{i:03d}.png")
        folder.mkdir(parents=True, exist_ok=True)
        self.studio = studio or FakeStudio(folder / "studio.json" if in_file else None)
        self.project_id = self.studio.create_project("Shapes", config).id
        self.studio.upload_images(self.project_id, sorted(images.iterdir()))
        self.tasks = sorted(self.studio.task_ids(self.project_id))
        options = {"learner": tiny_learner.NAME, "heartbeat_s": 5.0, "push_interval_s": 0.0, **options}
        self.settings = Settings(data_dir=folder / "data", allow_image_dirs=str(images), **options)
        self.store = Store(self.settings.database())
        register_project(self.settings, self.store, self.studio, self.project_id)

    def open(self, checkpoint: Callable[[str], None] = lambda place: None) -> OpenProject:
        return open_project(
            self.settings, self.store, self.studio, self.project_id, progress=Progress(checkpoint=checkpoint)
        )

    def worker(self, checkpoint: Callable[[str], None] = lambda place: None) -> Worker:
        return Worker(self.settings, self.store, self.studio, checkpoint=checkpoint)

    def review_to_the_end(self, looks: int = 12) -> ReviewReport:
        """Look and answer truthfully until all that is wanted is answered; the last report."""
        for _ in range(looks):
            report = self.worker().look(self.project_id)
            assert report is not None
            assert report.review is not None
            if report.review.done:
                return report.review
            self.answer_all()
        pytest.fail(f"questions are open after {looks} looks")

    def label(self, *numbers: int) -> None:
        """A person finishes these tasks truthfully."""
        for number in numbers:
            result = self.scenes[number].result()
            self.studio.create_annotation(self.tasks[number], result, lead_time_s=20.0)

    def is_good(self, question: Question) -> bool:
        """The truth about a question: IoU above 0.75 with a drawn mask of the same label."""
        scene = self.scenes[self.tasks.index(question.task_id)]
        mask = decode_rle(question.rle).astype(bool)
        ious = [
            (mask & true).sum() / (mask | true).sum()
            for label, true in scene.masks
            if label == question.label
        ]
        return max(ious, default=0.0) > 0.75

    def review_projects(self) -> dict[str, int]:
        """Review projects by form."""
        with self.store.read() as session:
            record = session.get_one(ProjectRecord, self.project_id)
        found = {"single": record.review_project_id, "sheet": record.sheet_project_id}
        return {form: number for form, number in found.items() if number is not None}

    def answer_all(
        self, studio: Any = None, limit: int = 10_000, flip: Callable[[str], bool] = lambda key: False
    ) -> int:
        """A worker answers what is open, truthfully but for keys that ``flip`` says; how many tasks."""
        client = studio or self.studio
        done = 0
        for review_id in self.review_projects().values():
            while done < limit and (task := client.next_task(review_id)) is not None:
                form, questions = read_questions(task.data)
                good = [self.is_good(q) != flip(q.key) for q in questions]
                client.create_annotation(task.id, answer_result(form, good), lead_time_s=2.0 * len(good))
                done += 1
        return done


def answer_result(form: str, good: list[bool]) -> list[dict[str, Any]]:
    """What the editor sends for these answers."""
    if form == "single":
        choices, name, to_name = ["yes" if good[0] else "no"], "verdict", "image"
    else:
        choices, name, to_name = [f"card{i}" for i, ok in enumerate(good) if not ok], "wrong", "question"
    if not choices:
        return []
    return [{"from_name": name, "to_name": to_name, "type": "choices", "value": {"choices": choices}}]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'sub' / 'store.db'}"


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()


@pytest.fixture(autouse=True)
def _tiny_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker may train the tiny learner, in this process."""
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    monkeypatch.setitem(LEARNERS, tiny_learner.COLD_NAME, tiny_learner.COLD_TARGET)

    def train_here(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train_here)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server."""
    with s3_process() as address:
        yield address


def _engine(name: str, *known: str) -> str:
    """What an environment variable of ``make engines`` chooses; the first that is known by default."""
    chosen = os.environ.get(name, known[0])
    assert chosen in known, f"{name} is {chosen!r}: one of {known}"
    return chosen


@pytest.fixture
def make_world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    """Makes worlds on SQLite and local files.

    With ``GROUNDSWELL_TEST_DATABASE=postgres`` each has a database of Postgres, with
    ``GROUNDSWELL_TEST_ARTIFACTS=s3`` its files are in a bucket too.
    """
    made: list[World] = []
    database = _engine("GROUNDSWELL_TEST_DATABASE", "sqlite", "postgres")
    artifacts = _engine("GROUNDSWELL_TEST_ARTIFACTS", "local", "s3")

    def empty_place() -> dict[str, Any]:
        found: dict[str, Any] = {}
        if database == "postgres":
            found["database_url"] = request.getfixturevalue("postgres_server").new_database()
        if artifacts == "s3":
            found["artifacts_url"] = new_bucket(request.getfixturevalue("s3_server"), monkeypatch)
            found["signing_key"] = "k" * 32
        return found

    def make(
        n_images: int = 4, studio: FakeStudio | None = None, name: str = "world", **options: Any
    ) -> World:
        made.append(World(tmp_path / name, n_images, studio, **{**empty_place(), **options}))
        made[-1].empty_place = empty_place
        return made[-1]

    yield make
    for world in made:
        world.store.close()
