"""kill -9 of a worker process on a real Label Studio: while it trains, pushes and asks; then it goes on."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import read_order
from sync.review.review_tasks import read_questions
from sync.store.tables import AnswerRecord, QuestionRecord, SplitRecord
from sync.studio.client import Studio
from tests.conftest import LOGIN
from tests.sync.conftest import World, answer_result
from tests.sync.worker.test_kill import look_once, start_worker, wait_for, wait_for_end, write_world

pytestmark = [pytest.mark.studio, pytest.mark.slow]

N_LABELLED = 6
OPTIONS: dict[str, Any] = {
    "studio_token": LOGIN.token,
    "backend_url": "http://127.0.0.1:9",  # nobody looks at the crops here
    "signing_key": "a signing key",
    "infer_part": 4,
    "push_rows": 3,
    "lease_ttl_s": 4.0,
    "heartbeat_s": 0.3,
    "policy": "original",
    "policy_options": {"min_size": 8, "sample": 8},
}


def make_world(folder: Path, studio: Studio) -> World:
    """A project of its own with six finished tasks; number n of ``world.tasks`` is picture n."""
    options = {**OPTIONS, "studio_url": studio.url}
    world = World(folder, 16, studio, **options)  # type: ignore[arg-type]
    names = {str(task.data["image"]).rsplit("-", 1)[-1]: task.id for task in studio.tasks(world.project_id)}
    world.tasks = [names[f"{number:03d}.png"] for number in range(16)]
    world.label(*range(N_LABELLED))
    write_world(world, options)
    return world


def kill(world: World, **when: str) -> None:
    """Start a worker and kill it at a place of its work."""
    mark = world.folder / "blocked"
    mark.unlink(missing_ok=True)
    if "TINY_SLEEP_S" in when:
        when["TINY_MARK"] = str(mark)
    child = start_worker(world, **when)
    wait_for(mark, child)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    if "TINY_SLEEP_S" in when:
        wait_for_end(int(mark.read_text()))


def correct_a_label(world: World) -> int:
    """A person takes a region out of a task that is not in the test split (see test_kill); its number."""
    with world.store.read() as session:
        query = select(SplitRecord.task_id).where(SplitRecord.project_id == world.project_id)
        split = set(session.scalars(query))
    assert split
    number = next(i for i, task in enumerate(world.tasks) if task not in split)
    (annotation,) = world.studio.task(world.tasks[number]).annotations
    world.studio.update_annotation(annotation.id, world.scenes[number].result()[:-1])
    return number


def review_tasks(world: World) -> list[Any]:
    return [task for review in world.review_projects().values() for task in world.studio.tasks(review)]


def answer_open_tasks(world: World) -> None:
    """Somebody answers all open questions truthfully."""
    for task in review_tasks(world):
        if not task.annotations:
            form, questions = read_questions(task.data)
            good = [world.is_good(question) for question in questions]
            world.studio.create_annotation(task.id, answer_result(form, good), lead_time_s=2.0)


def finish(world: World) -> None:
    """Look and answer until the review is done."""
    for _ in range(12):
        if look_once(world)["done"]:
            return
        answer_open_tasks(world)
    raise AssertionError("the review never ended")


def final_state(world: World) -> dict[str, Any]:
    """What people see in Label Studio, by picture.

    Ids and keys differ between projects, and with them the members that a sample draws: whether an accepted
    mask was verified or propagated is left out, that it is accepted is not. They also decide which tasks the
    test split holds, and so the order that is calibrated on it: ``check`` compares the places of the tasks
    with the order of their own project, here stands that all places are given.
    """

    def plain(region: dict[str, Any]) -> tuple[str, bool, str]:
        source = region.get("meta", {}).get("groundswell", {}).get("source", "")
        return region["type"], bool(source), repr(sorted(region["value"].items()))

    studio = world.studio
    predictions = [studio.predictions(task) for task in world.tasks]
    return {
        "predictions": [[sorted(plain(dict(r)) for r in row.result) for row in rows] for rows in predictions],
        "places": sorted(round(row.score, 5) for rows in predictions for row in rows),
        "versions": len({row.model_version for rows in predictions for row in rows}),
    }


def check(world: World, corrected: int) -> None:
    """What must hold whatever happened on the way; ``corrected`` is the picture whose label was changed."""
    studio = world.studio
    for number, task in enumerate(world.tasks):
        said = [(a.was_cancelled, [r["value"] for r in a.result]) for a in studio.task(task).annotations]
        drawn = [r["value"] for r in world.scenes[number].result()]
        drawn = drawn[:-1] if number == corrected else drawn
        assert said == ([(False, drawn)] if number < N_LABELLED else []), "what people said stays"
    shown = studio.project(world.project_id).model_version
    for number, task in enumerate(world.tasks):
        versions = [row.model_version for row in studio.predictions(task)]
        assert versions == ([] if number < N_LABELLED else [shown]), number
    trained = shown.rsplit(".", 1)[0]  # a push adds a digest of what it shows
    order = read_order(ProjectPaths(world.settings.data_dir, world.project_id).order(trained))
    assert order is not None
    places = dict(zip(order.task_id.tolist(), order.score.tolist(), strict=True))
    for task in world.tasks[N_LABELLED:]:
        (row,) = studio.predictions(task)
        assert row.score == pytest.approx(places[task], abs=1e-5), task
    keys = Counter(question.key for task in review_tasks(world) for question in read_questions(task.data)[1])
    assert set(keys.values()) == {1}, "a question was asked twice"
    assert all(len(task.annotations) == 1 for task in review_tasks(world))
    with world.store.read() as session:
        shown_to_people = QuestionRecord.review_task_id.is_not(None)
        asked = set(session.scalars(select(QuestionRecord.key).where(shown_to_people)))
        answered = Counter(session.scalars(select(AnswerRecord.question_key)))
    assert asked == set(keys)
    assert answered == keys, "every answer was pulled, once"


def test_kill_9_in_train_push_and_review_changes_nothing_in_the_end(studio: Studio, tmp_path: Path) -> None:
    calm = make_world(tmp_path / "calm", studio)
    look_once(calm)
    corrected = correct_a_label(calm)
    finish(calm)
    expected = final_state(calm)
    check(calm, corrected)

    world = make_world(tmp_path / "killed", studio)
    kill(world, TINY_SLEEP_S="600")
    assert ModelRegistry(world.settings.data_dir).versions(world.project_id) == []
    corrected = correct_a_label(world)  # people go on working while the worker is dead

    kill(world, BLOCK_AFTER="import_predictions:2")
    assert list(studio.prediction_versions(world.project_id).values()) == [6], "two of four chunks were sent"

    kill(world, BLOCK_AFTER="import_tasks:1")
    asked = len(review_tasks(world))
    assert asked > 0
    with world.store.read() as session:
        assert session.scalars(select(QuestionRecord.id)).all() == [], "the store knows nothing of them yet"

    look_once(world)
    answer_open_tasks(world)
    kill(world, BLOCK_AFTER="delete_predictions:1")

    finish(world)
    check(world, corrected)
    found = final_state(world)
    for name, value in expected.items():
        assert found[name] == value, name
    for made in (calm, world):
        for project in (*made.review_projects().values(), made.project_id):
            studio.delete_project(project)
        made.store.close()
