"""Rounds on the fake Label Studio: what a look does, that a second does nothing, that kills do no harm."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import StudioError
from ml_backend.logs import set_up_logging
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.lease import hold_project
from sync.store.project_store import ProjectStore
from sync.store.tables import (
    DecisionRecord,
    LeaseRecord,
    ProjectRecord,
    QuestionRecord,
    RoundRecord,
    SplitRecord,
    TaskRecord,
)
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def _state(world: World) -> dict[str, Any]:
    """Everything people and later steps can see, without times and ids of rows."""
    studio = world.studio
    predictions = {
        task: [(row.model_version, round(row.score, 5), row.result) for row in studio.predictions(task)]
        for task in sorted(studio.task_ids(world.project_id))
    }
    with world.store.read() as session:
        rounds = session.scalars(select(RoundRecord).order_by(RoundRecord.number)).all()
        questions = session.scalars(select(QuestionRecord).order_by(QuestionRecord.key)).all()
        split = sorted(session.scalars(select(SplitRecord.task_id)))
    return {
        "shown": studio.project(world.project_id).model_version,
        "predictions": predictions,
        "rounds": [(r.number, r.model_version, r.step, r.pushed, r.review_done) for r in rounds],
        "questions": [(q.key, q.item, q.cluster) for q in questions],
        "review tasks": sorted(
            str(value)
            for review_id in world.review_projects().values()
            for value in studio.task_values(review_id, "groundswell_key")
        ),
        "verdicts": str(dict(read_verdicts(world.open().paths.round(len(rounds))))),  # NaN != NaN
        "split": split,
        "current": ModelRegistry(world.settings.data_dir).current(world.project_id),
    }


def test_nothing_happens_before_enough_is_finished(make_world: MakeWorld) -> None:
    world = make_world(6)
    world.label(0, 1)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.round, report.trained, report.error) == (None, "", "")
    assert world.studio.prediction_versions(world.project_id) == {}


def test_log_lines_of_a_look_name_project_and_round(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, stream = make_world(8), io.StringIO()
    world.label(*range(5))
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    set_up_logging(Settings(log_format="json"), stream=stream)
    log = logging.getLogger("a step")
    try:
        world.worker(lambda place: log.warning("at %s", place)).look_at_all()
        log.warning("afterwards")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    by_place = {line["message"]: (line.get("project"), line.get("round")) for line in lines}
    assert by_place["at train.start"] == (world.project_id, 1)
    assert {line.get("project") for line in lines[:-1]} == {world.project_id}
    assert by_place["afterwards"] == (None, None)


def test_a_whole_round(make_world: MakeWorld) -> None:
    world = make_world(24, policy="original")  # the certified policy verifies all of so few masks
    world.label(*range(6))
    worker = world.worker()
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    assert report.round == 1
    assert report.pushed is not None
    assert report.pushed.tasks == 18
    assert report.review is not None
    assert report.review.new > 0
    state = _state(world)
    assert state["shown"] == report.pushed.version
    assert all(len(rows) == (0 if i < 6 else 1) for i, rows in enumerate(state["predictions"].values()))
    assert len(state["split"]) == 2
    assert set(state["split"]) <= set(world.tasks[:6])
    info = ModelRegistry(world.settings.data_dir).info(world.project_id, state["current"])
    assert not set(info.manifest["train_tasks"]) & set(state["split"])

    for _ in range(20):
        world.answer_all()
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        assert report.review is not None
        if report.review.done:
            break
    assert report.review.done
    assert report.review.accepted > report.review.verified > 0
    final = _state(world)
    assert final["shown"] != state["shown"]
    assert list(world.studio.prediction_versions(world.project_id)) == [final["shown"]]
    regions = [item for rows in final["predictions"].values() for _, _, result in rows for item in result]
    texts = [item["meta"]["text"][0] for item in regions if "meta" in item]
    assert any(text.startswith("propagated: cluster") for text in texts)
    assert any(text.startswith("verified") for text in texts)
    with world.store.read() as session:
        decisions = session.scalars(select(DecisionRecord)).all()
    assert any(d.action == "accept" and d.yes / d.asked >= 0.85 for d in decisions)

    before = _state(world)
    again = worker.look(world.project_id)
    assert again is not None
    assert again.pushed is None
    assert _state(world) == before


def test_least_certain_task_is_served_first(make_world: MakeWorld) -> None:
    world = make_world(12)
    world.label(*range(5))
    world.worker().look(world.project_id)
    scores = {task: world.studio.predictions(task)[0].score for task in world.tasks[5:]}
    served = world.studio.as_user("a@example.com", "x").next_task(world.project_id)
    assert served is not None
    assert scores[served.id] == min(scores.values())


def test_a_second_round_trains_on_more_and_keeps_the_split(make_world: MakeWorld) -> None:
    world = make_world(16, retrain_after=4)
    world.label(*range(5))
    worker = world.worker()
    worker.look(world.project_id)
    first = _state(world)
    world.label(5, 6, 7)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.trained == ""
    world.label(8)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.trained
    second = _state(world)
    assert second["split"] == first["split"]
    assert [r[0] for r in second["rounds"]] == [1, 2]
    assert list(world.studio.prediction_versions(world.project_id)) == [second["shown"]]
    assert [len(rows) for rows in second["predictions"].values()][9:] == [1] * 7
    info = ModelRegistry(world.settings.data_dir).info(world.project_id, second["current"])
    assert info.manifest["start"] == first["current"]


def test_new_tasks_are_predicted_without_a_new_round(make_world: MakeWorld) -> None:
    world = make_world(10)
    late = world.tasks[9]
    data = world.studio.task(late).data
    world.studio.delete_tasks(world.project_id, [late])
    world.label(*range(5))
    worker = world.worker()
    worker.look(world.project_id)
    (task,) = world.studio.import_tasks(world.project_id, [data])
    report = worker.look(world.project_id)
    assert report is not None
    assert (report.trained, len(world.studio.predictions(task))) == ("", 1)


def test_broken_images_cost_only_their_own_task(make_world: MakeWorld) -> None:
    world = make_world(10)
    bad = world.images / "009.png"
    bad.write_text("no picture at all")
    (world.images / "001.png").write_text("neither")
    world.label(*range(5))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    with world.store.read() as session:
        assert "not an image" in session.get_one(TaskRecord, world.tasks[9]).image_error
        assert "not an image" in session.get_one(TaskRecord, world.tasks[1]).image_error
        assert session.get_one(TaskRecord, world.tasks[8]).image_error == ""
    assert [len(world.studio.predictions(task)) for task in world.tasks[5:]] == [1, 1, 1, 1, 0]


def test_a_failed_training_leaves_the_last_version_serving(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(12, retrain_after=2)
    world.label(*range(5))
    worker = world.worker()
    worker.look(world.project_id)
    good = _state(world)
    world.label(5, 6)
    monkeypatch.setenv("TINY_FAIL", "1")
    report = worker.look(world.project_id)
    assert report is not None
    assert "told to fail" in report.error
    state = _state(world)
    assert (state["shown"], state["current"]) == (good["shown"], good["current"])
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""  # waits before the next attempt
    monkeypatch.delenv("TINY_FAIL")
    with world.store.write() as session:
        row = session.get_one(RoundRecord, (world.project_id, 2))
        row.updated_at = row.started_at.replace(year=2020)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.trained
    assert _state(world)["rounds"][-1][0] == 2


def test_a_training_that_failed_three_times_is_not_tried_for_ever(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(8)
    world.label(*range(5))
    monkeypatch.setenv("TINY_FAIL", "1")
    worker = world.worker()
    tried = []
    for _ in range(5):
        report = worker.look(world.project_id)
        assert report is not None
        tried.append("told to fail" in report.error)
        with world.store.write() as session:  # all waits are over
            row = session.get_one(RoundRecord, (world.project_id, 1))
            row.updated_at = row.started_at.replace(year=2020)
    assert tried == [True, True, True, False, False]


def test_one_bad_project_does_not_stop_the_others(make_world: MakeWorld) -> None:
    world = make_world(8)
    world.label(*range(5))
    other = world.studio.create_project("Broken", world.studio.project(world.project_id).label_config).id
    register_project(world.settings, world.store, world.studio, other)
    world.studio._db["projects"][str(other)]["label_config"] = "<View></View>"
    reports = {report.project_id: report for report in world.worker().look_at_all()}
    assert "Image tag" in reports[other].error
    assert reports[world.project_id].error == ""
    assert reports[world.project_id].round == 1


def test_refusals_end_in_a_report_and_the_next_look_goes_on(make_world: MakeWorld) -> None:
    world = make_world(12)
    world.label(*range(5))
    refused = {"import_predictions": 1, "import_tasks": 1}

    def refuse(call: str) -> None:
        if refused.get(call):
            refused[call] -= 1
            raise StudioError(f"{call} refused", status=500)

    world.studio.before_call = refuse
    worker = world.worker()
    errors = [getattr(worker.look(world.project_id), "error", "") for _ in range(3)]
    assert errors[-1] == ""
    assert any("refused" in error for error in errors)
    assert [len(world.studio.predictions(task)) for task in world.tasks[5:]] == [1] * 7


def test_a_project_held_by_another_worker_is_left_alone(make_world: MakeWorld) -> None:
    world = make_world(6)
    world.label(*range(5))
    with hold_project(world.store, world.settings, world.project_id):
        assert world.worker().look(world.project_id) is None
    assert world.worker().look(world.project_id) is not None


class Killed(BaseException):
    """Stands for kill -9 at a boundary: no handler of the code under test may run on it."""


def _play(world: World, checkpoint: Callable[[str], None]) -> None:
    """Looks and answers until the review is done; the clients survive the worker's deaths."""
    for _ in range(400):
        try:
            report = world.worker(checkpoint).look(world.project_id)
        except Killed:
            continue
        if report is None:
            with world.store.write() as session:  # the dead worker's lease has run out
                session.execute(delete(LeaseRecord))
            continue
        assert report.error == ""
        if report.review is not None and report.review.done:
            return
        world.answer_all()
    raise AssertionError("the review never ended")


def test_kills_at_every_boundary_change_nothing_in_the_end(make_world: MakeWorld) -> None:
    options: dict[str, Any] = {"infer_part": 2, "infer_batch": 2, "push_rows": 3, "question_batch": 8}
    calm = make_world(16, name="calm", **options)
    calm.label(*range(6))
    places: list[str] = []
    _play(calm, places.append)
    wild = make_world(16, name="wild", **options)
    wild.label(*range(6))
    killed: set[tuple[str, int]] = set()
    seen: dict[str, int] = {}

    def kill(place: str) -> None:
        seen[place] = seen.get(place, 0) + 1
        if (place, seen[place]) not in killed and seen[place] <= 3:
            killed.add((place, seen[place]))
            raise Killed

    _play(wild, kill)
    assert {place for place, _ in killed} == set(places)
    assert _state(wild) == _state(calm)


def test_a_full_disk_is_a_plain_error_and_the_work_goes_on_after_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(10)
    world.label(*range(5))
    worker = world.worker()
    real = os.replace

    def full(source: str, target: str) -> None:
        if "pools" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr("ml_backend.artifacts.files.os.replace", full)
    report = worker.look(world.project_id)
    assert report is not None
    assert "no space left" in report.error
    assert "pools" in report.error
    with world.store.read() as session:
        assert "no space left" in session.get_one(ProjectRecord, world.project_id).error
    monkeypatch.setattr("ml_backend.artifacts.files.os.replace", real)
    report = worker.look(world.project_id)
    assert report is not None
    assert (report.error, report.trained) == ("", "")
    assert report.pushed is not None
    assert report.pushed.tasks == 5


@pytest.mark.parametrize("form", ["single", "sheet"])
def test_answers_of_review_projects_call_the_label_project(make_world: MakeWorld, form: str) -> None:
    addresses = {"backend_url": "https://models.example", "backend_internal_url": "http://backend:9090"}
    world = make_world(20, webhook_secret="s3cret", review_form=form, **addresses)
    world.label(*range(6))
    world.worker().look(world.project_id)
    assert set(world.review_projects()) == {form}
    review_id = world.review_projects()[form]
    (hook,) = [row for row in world.studio._db["webhooks"].values() if row["project"] == review_id]
    assert (hook["url"], hook["secret"]) == (
        f"http://backend:9090/webhook?project={world.project_id}",
        "s3cret",
    )


def test_every_file_of_a_round_is_put_in_place_under_the_lease(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(20, question_batch=4)
    fenced: list[object] = []
    open_write, replace = ProjectStore.write, os.replace
    found: dict[str, bool] = {}

    @contextmanager
    def noted_write(db: ProjectStore) -> Iterator[Session]:
        with open_write(db) as session:
            fenced.append(db.lease)
            yield session
            fenced.pop()

    def noted_replace(source: Path, target: Path) -> None:
        place = Path(target).relative_to(world.settings.data_dir)
        if place.parts[0] == "projects" and not any(part.startswith(".") for part in place.parts):
            found["/".join(place.parts[2:])] = bool(fenced) and fenced[-1] is not None
        replace(source, target)

    monkeypatch.setattr(ProjectStore, "write", noted_write)
    monkeypatch.setattr(os, "replace", noted_replace)
    world.label(*range(6))
    worker = world.worker()
    for _ in range(3):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        world.answer_all()
    written = {name.rpartition("/")[2] for name in found}
    assert {"project.json", "snapshot.json", "round.json", "pool.json", "pushed.json"} <= written
    assert {"instructions.json", "verdicts.parquet", "upcoming.json"} <= written
    # a crop is named by what it shows: whoever writes it writes the same. The progress names its worker, and
    # readers believe that of the lease's holder alone
    unfenced = {name for name, is_fenced in found.items() if not is_fenced and "crops" not in name}
    assert unfenced <= {"progress.json"}
