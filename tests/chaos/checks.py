"""What must hold when everything runs again, whatever happened before."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import func, select

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.task_orders import read_order
from ml_backend.learners.registry import get_learner
from sync.review.review_tasks import read_questions
from sync.store.review_tables import OutboxRecord
from sync.store.tables import AnnotationRecord, AnswerRecord, QuestionRecord
from tests.chaos.people import People
from tests.studio.test_kill_real import final_state
from tests.sync.conftest import World

__all__ = ["check", "shown_to_people"]


def shown_to_people(world: World) -> list[Any]:
    """What the predictions of each picture say, without ids: for comparison with another project."""
    return list(final_state(world)["predictions"])


def check(world: World, people: People) -> None:
    """No label lost, no prediction or question twice, no version half there."""
    _labels(world, people)
    _predictions(world, people)
    _questions(world, people)
    _versions(world)


def _labels(world: World, people: People) -> None:
    for number, task in enumerate(world.tasks):
        said = [[r["value"] for r in a.result] for a in world.studio.task(task).annotations]
        drawn = [r["value"] for r in world.scenes[number].result()]
        drawn = drawn[:-1] if number == people.corrected else drawn
        assert said == ([drawn] if number in people.labelled else []), f"picture {number}: what people said"
    with world.store.read() as session:
        known = session.scalar(select(func.count()).select_from(AnnotationRecord))
    assert known == len(people.labelled), "every annotation is in the store, once"


def _predictions(world: World, people: People) -> None:
    shown = world.studio.project(world.project_id).model_version
    for number, task in enumerate(world.tasks):
        versions = [row.model_version for row in world.studio.predictions(task)]
        assert versions == ([] if number in people.labelled else [shown]), f"picture {number}: predictions"
    order = read_order(ProjectPaths(world.settings.data_dir, world.project_id).order(shown.rsplit(".", 1)[0]))
    assert order is not None, "the version that is shown has an order"


def _questions(world: World, people: People) -> None:
    reviews = [task for review in world.review_projects().values() for task in world.studio.tasks(review)]
    keys = Counter(question.key for task in reviews for question in read_questions(task.data)[1])
    assert set(keys.values()) <= {1}, "a question was asked twice"
    for task in reviews:
        assert len(task.annotations) <= 2, "an answer is there twice"
        people_of_task = Counter(a.completed_by for a in task.annotations)
        assert set(people_of_task.values()) <= {1}, "a person's answer is there twice"
        assert len(task.annotations) >= people.answered[task.id], "an answer that was called stored is lost"
    lost = set(people.answered) - {task.id for task in reviews}
    assert not lost, "review tasks with answers are gone"
    with world.store.read() as session:
        asked = set(
            session.scalars(select(QuestionRecord.key).where(QuestionRecord.review_task_id.is_not(None)))
        )
        answered = Counter(session.scalars(select(AnswerRecord.question_key)))
        waiting = session.scalars(
            select(OutboxRecord).where(OutboxRecord.written < OutboxRecord.revision)
        ).all()
    assert not waiting, "answers still wait in the queue"
    assert asked == set(keys)
    in_studio = Counter(
        question.key
        for task in reviews
        for _ in task.annotations
        for question in read_questions(task.data)[1]
    )
    assert answered == in_studio, "every answer was pulled, once"


def _versions(world: World) -> None:
    registry = ModelRegistry(world.settings.data_dir)
    paths = ProjectPaths(world.settings.data_dir, world.project_id)
    versions = registry.versions(world.project_id)
    assert versions
    for info in versions:
        get_learner(info.learner).load(info.folder)
        if paths.pool(info.version).exists():
            read_pool(paths.pool(info.version))
    assert registry.current(world.project_id) in [info.version for info in versions]
    left = [path.name for path in paths.root.rglob("*") if path.name.startswith((".tmp", ".partial"))]
    assert not left, "unfinished files were left"
