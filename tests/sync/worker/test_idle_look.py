"""A look at a project in which nothing changed costs the same however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from bench.sync_project import Level, add_model, fill_store, settings_for
from sync.rounds.project import open_project
from sync.store.database import Store
from sync.store.tables import TaskRecord
from sync.worker.loop import Worker
from tests.sync.conftest import World


@dataclass
class Cost:
    """What a block of code asked of the database: statements, and rows that came back."""

    statements: int = 0
    rows: int = 0


@contextmanager
def counted(store: Store) -> Iterator[Cost]:
    cost = Cost()
    engine = store._engine

    def note(*_: Any) -> None:
        cost.statements += 1

    def row(_cursor: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        cost.rows += 1
        return values

    def lend(connection: Any, *_: Any) -> None:
        connection.row_factory = row

    def take(connection: Any, *_: Any) -> None:
        connection.row_factory = None

    heard = (("before_cursor_execute", note), ("checkout", lend), ("checkin", take))
    for name, function in heard:
        event.listen(engine, name, function)
    yield cost
    for name, function in heard:
        event.remove(engine, name, function)


class Site:
    """A worker over a store of many tasks with a model, and a Label Studio that holds the same."""

    def __init__(self, folder: Path, tasks: int) -> None:
        settings = settings_for(folder)
        self.store = Store(settings.database())
        fill_store(self.store, tasks, finished=20)
        self.studio: Any = Level(tasks)
        self.project = open_project(settings, self.store, self.studio, 1)
        add_model(self.project, radius=2)
        self.worker = Worker(settings, self.store, self.studio, only=[1])
        for _ in range(3):  # the first one pushes, the next ones find that nothing is left
            self.look()

    def look(self) -> Any:
        report = self.worker.look(1)
        assert report is not None
        assert report.error == ""
        return report


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("few"), 50)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("many"), 500)


def _idle(site: Site) -> tuple[int, int, int]:
    """Requests, statements and rows of one look."""
    before = site.studio.calls
    with counted(site.store) as cost:
        report = site.look()
    assert report.pushed is None
    return site.studio.calls - before, cost.statements, cost.rows


def test_ten_times_the_tasks_cost_no_more(few: Site, many: Site) -> None:
    requests, statements, rows = _idle(few)
    assert _idle(many) == (requests, statements, rows)
    assert requests == 2, "the project with its count, and what changed"
    assert rows < 50


def test_a_change_of_the_store_is_noticed_whoever_makes_it(few: Site) -> None:
    with few.store.write() as session:  # somebody finished a task: it needs no prediction any more
        task = session.get_one(TaskRecord, 50)
        task.finished = True
    with counted(few.store) as cost:
        few.look()
    assert cost.rows > 50
    assert _idle(few)[2] < 50


def test_a_worker_that_remembers_does_what_a_new_one_would(make_world: Callable[..., World]) -> None:
    world = make_world(12, push_min_score=0.5, question_batch=8)
    world.label(*range(6))
    old = world.worker()
    pushes = 0
    for _ in range(4):
        report = old.look(world.project_id)
        assert report is not None
        assert report.error == ""
        pushes += report.pushed is not None
        fresh = world.worker().look(world.project_id)
        assert fresh is not None
        assert fresh.pushed is None or fresh.pushed.sent == 0
        assert fresh.review is not None
        assert fresh.review.new == 0
        if not world.answer_all(limit=6):
            break
    assert pushes > 1, "decisions were shown"


def test_a_second_copy_of_a_review_task_is_closed_by_a_worker_that_found_nothing_to_close(
    make_world: Callable[..., World],
) -> None:
    world = make_world(12, push_min_score=0.5)
    world.label(*range(6))
    worker = world.worker()
    for _ in range(2):
        worker.look(world.project_id)
    (review,) = world.review_projects().values()
    first = next(task for task in world.studio.tasks(review) if not task.is_labeled)
    (second,) = world.studio.import_tasks(review, [first.data])
    for _ in range(2):
        worker.look(world.project_id)
    assert world.studio.task(second).is_labeled
    assert not world.studio.task(first.id).is_labeled


def test_tasks_that_are_open_again_get_predictions_from_a_worker_that_found_none_left(
    make_world: Callable[..., World],
) -> None:
    world = make_world(12)
    world.label(*range(6))
    worker = world.worker()
    for _ in range(2):
        worker.look(world.project_id)
    for task in world.tasks[:6]:  # some of them are of the test split, and were looked at
        (said,) = world.studio.task(task).annotations
        world.studio.delete_annotation(said.id)
    worker.look(world.project_id)
    shown = world.studio.project(world.project_id).model_version
    for task in world.tasks[:6]:
        assert [row.model_version for row in world.studio.predictions(task)] == [shown]
