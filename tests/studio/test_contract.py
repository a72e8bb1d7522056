"""The contract of StudioClient, on FakeStudio and on a real Label Studio."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import StudioError
from sync.studio.protocol import (
    ImportedAnnotation,
    PersonsAnnotation,
    PredictionRow,
    StudioClient,
    UserRow,
)
from tests.fakes.label_studio import FakeStudio

CONFIG = """<View>
<RectangleLabels name="rect" toName="image"><Label value="Cat"/><Label value="Dog"/></RectangleLabels>
<Image name="image" value="$image"/>
</View>"""


def box(label: str = "Cat") -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:10],
        "type": "rectanglelabels",
        "from_name": "rect",
        "to_name": "image",
        "original_width": 100,
        "original_height": 80,
        "image_rotation": 0,
        "value": {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [label]},
    }


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.studio)])
def client(request: pytest.FixtureRequest) -> StudioClient:
    if request.param == "fake":
        return FakeStudio()
    return request.getfixturevalue("studio")  # type: ignore[no-any-return]


@pytest.fixture
def project(client: StudioClient) -> Iterator[int]:
    row = client.create_project(f"contract {uuid.uuid4().hex[:6]}", CONFIG)
    yield row.id
    client.delete_project(row.id)


def images(n: int) -> list[dict[str, Any]]:
    return [{"image": f"https://pictures.invalid/{i}.jpg", "key": f"k{i}"} for i in range(n)]


def score_rows(tasks: list[int], scores: list[float], version: str) -> list[PredictionRow]:
    return [PredictionRow(task, [], score, version) for task, score in zip(tasks, scores, strict=True)]


def test_a_project_can_be_made_read_and_deleted(client: StudioClient) -> None:
    made = client.create_project(
        "contract project", CONFIG, maximum_annotations=2, instruction="<b>Do it</b>"
    )
    found = client.project(made.id)
    assert found == made
    assert found.key.split(".")[0] == str(made.id)
    assert abs(int(found.key.split(".")[1]) - datetime.now(UTC).timestamp()) < 3600
    assert (found.title, found.model_version, found.task_number) == ("contract project", "", 0)
    assert "RectangleLabels" in found.label_config
    assert found.instruction == "<b>Do it</b>"
    client.set_instruction(made.id, "<b>Do it well</b>")
    assert client.project(made.id).instruction == "<b>Do it well</b>"
    assert made.id in {row.id for row in client.projects()}
    client.delete_project(made.id)
    with pytest.raises(StudioError) as caught:
        client.project(made.id)
    assert caught.value.status == 404
    assert made.id not in {row.id for row in client.projects()}


def test_a_tab_is_made_changed_and_deleted(client: StudioClient, project: int) -> None:
    client.import_tasks(project, images(2))
    assert client.views(project) == []
    data = {"title": "Look here", "type": "list", "target": "tasks", "ordering": ["-tasks:data.key"]}
    made = client.create_view(project, data)
    found = client.views(project)
    assert [(view.id, view.title, view.data["ordering"]) for view in found] == [
        (made.id, "Look here", ["-tasks:data.key"])
    ]
    only = {"filter": "filter:tasks:data.key", "operator": "empty", "type": "String", "value": False}
    filters = {"conjunction": "and", "items": [only]}
    client.change_view(project, made.id, {**data, "ordering": ["tasks:id"], "filters": filters})
    changed = client.views(project)[0].data
    assert changed["ordering"] == ["tasks:id"]
    assert changed["filters"] == filters
    client.delete_view(project, made.id)
    assert client.views(project) == []


@pytest.mark.parametrize(
    ("title", "config", "sampling"),
    [
        ("ab", CONFIG, "Uncertainty sampling"),
        ("a" * 51, CONFIG, "Uncertainty sampling"),
        ("good title", "<View><Image", "Uncertainty sampling"),
        ("good title", CONFIG, "Best first"),
    ],
)
def test_a_bad_project_is_refused_with_400(
    client: StudioClient, title: str, config: str, sampling: str
) -> None:
    with pytest.raises(StudioError) as caught:
        client.create_project(title, config, sampling=sampling)
    assert caught.value.status == 400


def test_imported_tasks_come_back_in_order_with_their_data(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(5))
    assert ids == sorted(ids)
    assert client.task_ids(project) == set(ids)
    listed = {task.id: task.updated_at for task in client.tasks(project)}
    assert client.task_times(project) == listed == {task: client.task(task).updated_at for task in ids}
    assert client.project(project).task_number == 5
    rows = list(client.tasks(project))
    assert [row.data["key"] for row in sorted(rows, key=lambda row: row.id)] == [f"k{i}" for i in range(5)]
    assert all(row.project_id == project and not row.is_labeled and row.annotations == () for row in rows)
    assert client.task_values(project, "key") == {f"k{i}": task for i, task in enumerate(ids)}
    assert client.task_values(project, "nothing") == {}


def test_many_tasks_are_listed_completely(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(230))
    rows = [row.id for row in client.tasks(project)]
    assert len(rows) == 230
    assert set(rows) == set(ids) == client.task_ids(project)


def test_a_task_without_the_field_of_the_config_is_refused(client: StudioClient, project: int) -> None:
    with pytest.raises(StudioError, match="image") as caught:
        client.import_tasks(project, [{"picture": "https://pictures.invalid/0.jpg"}])
    assert caught.value.status == 400
    assert client.task_ids(project) == set()


def test_deleted_tasks_are_gone(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(4))
    client.delete_tasks(project, ids[:2])
    client.delete_tasks(project, [])
    assert client.task_ids(project) == set(ids[2:])
    with pytest.raises(StudioError) as caught:
        client.task(ids[0])
    assert caught.value.status == 404


def test_a_project_keeps_a_description_and_the_number_of_people_per_task(
    client: StudioClient, project: int
) -> None:
    assert (client.project(project).description, client.project(project).maximum_annotations) == ("", 1)
    client.set_description(project, "made by a test")
    ids = client.import_tasks(project, images(2))
    client.create_annotation(ids[0], [box()])
    assert client.task(ids[0]).is_labeled
    client.set_maximum_annotations(project, 2)
    row = next(row for row in client.projects() if row.id == project)
    assert (row.description, row.maximum_annotations) == ("made by a test", 2)
    assert not client.task(ids[0]).is_labeled  # tasks that were there take part
    assert len(client.task(ids[0]).annotations) == 1


def test_a_closed_task_is_served_to_nobody_and_keeps_what_people_said(
    client: StudioClient, project: int
) -> None:
    first, second = client.import_tasks(project, images(2))
    before = datetime.now(UTC) - timedelta(seconds=5)
    closed = client.close_task(first)
    assert (closed.id, closed.is_labeled, closed.annotations) == (first, True, ())
    assert first in {row.id for row in client.tasks(project, changed_since=before)}
    served = client.next_task(project)
    assert served is not None
    assert served.id == second
    late = client.create_annotation(first, [box()])  # by somebody who had it open
    assert [a.id for a in client.task(first).annotations] == [late.id]
    assert client.task(first).is_labeled
    client.close_task(first)
    assert [a.id for a in client.task(first).annotations] == [late.id]
    client.close_task(second)
    client.create_annotation(second, [], was_cancelled=True)  # a skip opens it again
    assert not client.task(second).is_labeled


def test_new_data_of_a_task_leave_its_annotations_alone(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    kept = client.create_annotation(task, [box()])
    data = {"image": "https://pictures.invalid/other.jpg", "key": "k0", "more": {"a": [1]}}
    row = client.set_task_data(task, data)
    assert dict(row.data) == data
    assert dict(client.task(task).data) == data
    assert [(a.id, a.result) for a in client.task(task).annotations] == [(kept.id, kept.result)]


def test_uploaded_images_become_tasks(client: StudioClient, project: int, tmp_path: Path) -> None:
    paths = []
    for i in range(3):
        path = tmp_path / f"picture{i}.png"
        Image.fromarray(np.full((8, 9, 3), 40 * i, np.uint8)).save(path)
        paths.append(path)
    data = [{"groundswell_path": f"folder/{path.name}"} for path in paths]
    ids = client.upload_images(project, paths, data=data)
    assert set(ids) == client.task_ids(project)
    assert len(ids) == 3
    values = sorted(str(row.data["image"]) for row in client.tasks(project))
    assert [any(value.endswith(path.name) for value in values) for path in paths] == [True] * 3
    found = dict(client.task_data(project))
    assert list(found) == sorted(ids)
    assert [found[task]["groundswell_path"] for task in ids] == [row["groundswell_path"] for row in data]
    assert [str(found[task]["image"]).endswith(path.name) for task, path in zip(ids, paths, strict=True)] == [
        True
    ] * 3
    (more,) = client.upload_images(project, paths[:1])
    assert set(client.task(more).data) == {"image"}


def test_annotations_created_changed_skipped_and_deleted_move_their_task(
    client: StudioClient, project: int
) -> None:
    ids = client.import_tasks(project, images(4))
    start = max(row.updated_at for row in client.tasks(project))
    assert list(client.tasks(project, changed_since=start)) == []

    first = client.create_annotation(ids[0], [box()], lead_time_s=2.5)
    skip = client.create_annotation(ids[1], [], was_cancelled=True)
    changed = {row.id: row for row in client.tasks(project, changed_since=start)}
    assert set(changed) == {ids[0], ids[1]}
    done, skipped = changed[ids[0]], changed[ids[1]]
    assert done.is_labeled
    assert not skipped.is_labeled
    (annotation,) = done.annotations
    assert annotation == first
    assert annotation.result[0]["value"]["rectanglelabels"] == ["Cat"]
    assert annotation.lead_time_s == 2.5
    assert annotation.completed_by is not None
    assert not annotation.was_cancelled
    assert not annotation.ground_truth
    assert skipped.annotations == (skip,)
    assert skip.was_cancelled

    middle = max(row.updated_at for row in changed.values())
    second = client.update_annotation(first.id, [box("Dog")])  # type: ignore[attr-defined]
    assert second.id == first.id
    assert second.updated_at > first.updated_at
    assert second.created_at == first.created_at
    (row,) = client.tasks(project, changed_since=middle)
    assert row.annotations[0].result[0]["value"]["rectanglelabels"] == ["Dog"]
    assert client.task(ids[0]) == row

    later = row.updated_at
    client.delete_annotation(first.id)
    (row,) = client.tasks(project, changed_since=later)
    assert row.id == ids[0]
    assert row.annotations == ()
    assert not row.is_labeled
    with pytest.raises(StudioError) as caught:
        client.delete_annotation(first.id)
    assert caught.value.status == 404


def test_changes_come_oldest_first(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(3))
    start = max(row.updated_at for row in client.tasks(project))
    for task in (ids[2], ids[0]):
        client.create_annotation(task, [box()])
    rows = list(client.tasks(project, changed_since=start))
    assert [row.id for row in rows] == [ids[2], ids[0]]
    assert rows[0].updated_at < rows[1].updated_at
    assert list(client.tasks(project, changed_since=datetime.now(UTC) + timedelta(hours=1))) == []


def test_prediction_versions_are_kept_apart(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(3))
    rows = [
        *score_rows(ids, [0.1, 0.2, 0.3], "v1"),
        PredictionRow(ids[0], [box(), box("Dog")], 1.0, "v10"),
    ]
    assert client.import_predictions(project, rows) == 4
    assert client.predicted_tasks(project, "v1") == set(ids)
    assert client.predicted_tasks(project, "v10") == {ids[0]}
    assert client.predicted_tasks(project, "v") == set()
    assert client.prediction_versions(project) == {"v1": 3, "v10": 1}
    client.set_model_version(project, "v1")
    assert client.project(project).model_version == "v1"
    assert client.delete_predictions(project, "v10") == 1
    assert client.project(project).model_version == "v1"
    assert client.delete_predictions(project, "v10") == 0
    assert client.delete_predictions(project, "v1") == 3
    assert client.project(project).model_version == ""
    assert client.prediction_versions(project) == {}
    assert client.predicted_tasks(project, "v1") == set()


def test_a_prediction_is_replaced_in_place(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(3))
    client.import_predictions(project, score_rows(ids, [0.1, 0.2, 0.3], "v1"))
    client.import_predictions(project, score_rows(ids[:1], [0.9], "others"))
    client.set_model_version(project, "v1")
    client.replace_prediction(project, PredictionRow(ids[0], [box("Dog")], 0.7, "v1"))
    assert client.project(project).model_version == "v1"
    found = client.predictions(ids[0])  # type: ignore[attr-defined]
    assert [(row.model_version, row.score) for row in found] == [("v1", 0.7), ("others", 0.9)]
    assert found[0].result[0]["value"]["rectanglelabels"] == ["Dog"]
    served = client.next_task(project)
    assert served is not None
    assert served.id == ids[1], "the new score counts in the order of tasks"

    client.import_predictions(project, score_rows(ids[1:2], [0.5], "v1"))  # a double
    client.replace_prediction(project, PredictionRow(ids[1], [box()], 0.6, "v1"))
    assert [row.score for row in client.predictions(ids[1])] == [0.6]  # type: ignore[attr-defined]
    client.replace_prediction(project, PredictionRow(ids[2], [box()], 0.8, "v2"))  # there is none of v2
    assert client.prediction_versions(project) == {"v1": 3, "v2": 1, "others": 1}
    with pytest.raises(StudioError):
        client.replace_prediction(project, PredictionRow(ids[2], [box("Horse")], 0.8, "v2"))


def test_sending_predictions_again_doubles_them(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(1))
    for _ in range(2):
        client.import_predictions(project, score_rows(ids, [0.5], "v1"))
    assert client.prediction_versions(project) == {"v1": 2}


@pytest.mark.parametrize(
    ("result", "score", "version"),
    [
        ([box("Horse")], 0.5, "v1"),
        ([{**box(), "from_name": "mask"}], 0.5, "v1"),
        ([box()], 1.5, "v1"),
        ([box()], 0.5, ""),
    ],
)
def test_predictions_label_studio_would_drop_are_refused_before_anything_is_stored(
    client: StudioClient, project: int, result: list[dict[str, Any]], score: float, version: str
) -> None:
    good, bad = client.import_tasks(project, images(2))
    with pytest.raises(StudioError, match=f"task {bad}"):
        client.import_predictions(
            project, [PredictionRow(good, [box()], 0.5, "v1"), PredictionRow(bad, result, score, version)]
        )
    assert client.prediction_versions(project) == {}


def test_a_prediction_for_an_unknown_task_refuses_the_call(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    with pytest.raises(StudioError) as caught:
        client.import_predictions(project, score_rows([task, task + 10_000], [0.1, 0.2], "v1"))
    assert caught.value.status == 400
    assert client.prediction_versions(project) == {}


def test_a_version_without_predictions_cannot_be_shown(client: StudioClient, project: int) -> None:
    with pytest.raises(StudioError) as caught:
        client.set_model_version(project, "v9")
    assert caught.value.status == 400


def test_the_least_certain_task_of_the_active_version_is_served_first(
    client: StudioClient, project: int
) -> None:
    ids = client.import_tasks(project, images(4))
    client.import_predictions(project, score_rows(ids, [0.9, 0.2, 0.6, 0.4], "v1"))
    client.import_predictions(project, score_rows(ids, [0.1, 0.9, 0.8, 0.7], "v2"))
    client.set_model_version(project, "v1")
    order = []
    for _ in range(2):
        row = client.next_task(project)
        assert row is not None
        again = client.next_task(project)
        assert again is not None
        assert again.id == row.id, "a task stays locked for the user it was served to"
        order.append(row.id)
        client.create_annotation(row.id, [box()])
    assert order == [ids[1], ids[3]]
    client.set_model_version(project, "v2")
    row = client.next_task(project)
    assert row is not None
    assert row.id == ids[0]


def test_nothing_is_served_when_all_is_done(client: StudioClient, project: int) -> None:
    assert client.next_task(project) is None
    (task,) = client.import_tasks(project, images(1))
    client.create_annotation(task, [box()])
    assert client.next_task(project) is None
    with pytest.raises(StudioError) as caught:
        client.next_task(10**7)
    assert caught.value.status == 404


def test_a_skipped_task_goes_to_others(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    client.create_annotation(task, [], was_cancelled=True)
    assert client.next_task(project) is None
    other = client.as_user("other@example.com", "a long password")
    row = other.next_task(project)
    assert row is not None
    assert row.id == task


def test_two_users_get_different_tasks_and_their_own_names(client: StudioClient, project: int) -> None:
    ids = client.import_tasks(project, images(2))
    client.import_predictions(project, score_rows(ids, [0.1, 0.2], "v1"))
    client.set_model_version(project, "v1")
    other = client.as_user("other@example.com", "a long password")
    again = client.as_user("other@example.com", "a long password")
    first, second = client.next_task(project), other.next_task(project)
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == (ids[0], ids[1])
    mine = client.create_annotation(first.id, [box()])
    theirs = again.create_annotation(second.id, [box()])
    assert mine.completed_by != theirs.completed_by


def test_overlap_gives_one_task_to_several_users(client: StudioClient) -> None:
    project = client.create_project("contract overlap", CONFIG, maximum_annotations=2).id
    ids = client.import_tasks(project, images(2))
    client.import_predictions(project, score_rows(ids, [0.1, 0.2], "v1"))
    client.set_model_version(project, "v1")
    other = client.as_user("other@example.com", "a long password")
    served = []
    for user in (client, other):
        row = user.next_task(project)
        assert row is not None
        served.append(row.id)
        user.create_annotation(row.id, [box()])
    assert served == [ids[0], ids[0]]
    row = client.task(ids[0])
    assert row.is_labeled
    assert len({annotation.completed_by for annotation in row.annotations}) == 2
    client.delete_project(project)


def test_local_files_and_webhooks_are_made_once(
    client: StudioClient, project: int, studio_files: Path
) -> None:
    inner = studio_files / "inner"
    inner.mkdir(exist_ok=True)
    storage = client.ensure_local_files(project, studio_files)
    assert client.ensure_local_files(project, studio_files) == storage
    assert client.ensure_local_files(project, inner) == storage
    hook = client.ensure_webhook(project, "http://127.0.0.1:9/webhook", secret="one")
    assert client.ensure_webhook(project, "http://127.0.0.1:9/webhook", secret="one") == hook
    assert client.ensure_webhook(project, "http://127.0.0.1:9/webhook", secret="two") == hook


def test_an_imported_annotation_is_made_once_and_replaced(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    key = str(uuid.uuid4())
    row = ImportedAnnotation(task, [box()], key, 5)
    assert client.import_annotations([row]) == 1
    assert client.import_annotations([row]) == 0
    (made,) = client.task(task).annotations
    assert (made.import_id, made.was_cancelled, made.ground_truth) == (5, False, False)
    assert [list(listed.annotations) for listed in client.tasks(project)] == [[made]]
    assert client.import_annotations([ImportedAnnotation(task, [], key, 6, made.id)]) == 1
    (now,) = client.task(task).annotations
    assert (now.id, now.import_id, now.result) == (made.id, 6, ())


def test_disconnecting_leaves_everything_people_and_models_said(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    client.create_annotation(task, [box()])
    client.import_predictions(project, score_rows([task], [0.5], "gs1-r1-aa"))
    client.set_model_version(project, "gs1-r1-aa")
    client.ensure_webhook(project, "http://127.0.0.1:9/webhook", secret="one")
    assert client.disconnect(project, "http://127.0.0.1:9", title="Groundswell") == 1
    assert client.disconnect(project, "http://127.0.0.1:9", title="Groundswell") == 0
    assert client.project(project).model_version == "gs1-r1-aa"
    assert client.prediction_versions(project) == {"gs1-r1-aa": 1}
    assert len(client.task(task).annotations) == 1


def test_answers_are_stored_as_those_of_a_person_who_never_logs_in(
    client: StudioClient, project: int
) -> None:
    first, second = client.import_tasks(project, images(2))
    email = f"ana-{uuid.uuid4().hex}@people.invalid"
    ana = client.add_person(email, "Ana <b>")
    with pytest.raises(StudioError):
        client.add_person(email, "Ana again")
    key = str(uuid.uuid4())
    row = PersonsAnnotation(first, [box()], key, ana, 2.5)
    assert client.annotation_of(first, ana) is None
    number = client.create_persons_annotation(row)
    assert client.annotation_of(first, ana) == number
    (kept,) = client.task(first).annotations
    assert (kept.id, kept.completed_by, kept.lead_time_s, kept.was_cancelled) == (number, ana, 2.5, False)
    assert kept.result[0]["value"]["rectanglelabels"] == ["Cat"]
    assert client.task(first).is_labeled
    # sent again, changed meanwhile: there is one, with the newest content
    again = replace(row, result=[box("Dog")], lead_time_s=4.0)
    assert client.create_persons_annotation(again) == number
    (kept,) = client.task(first).annotations
    assert kept.result[0]["value"]["rectanglelabels"] == ["Dog"]
    assert (kept.completed_by, kept.lead_time_s) == (ana, 4.0)
    with pytest.raises(StudioError) as refused:
        client.create_persons_annotation(replace(row, task_id=second))  # the key is another task's
    assert refused.value.status == 409
    # a skip instead of an answer, and taken back
    client.replace_persons_annotation(number, replace(row, result=[], was_cancelled=True))
    task = client.task(first)
    assert [a.was_cancelled for a in task.annotations] == [True]
    assert not task.is_labeled
    assert client.annotation_of(first, ana) == number
    client.delete_annotation(number)
    assert client.annotation_of(first, ana) is None
    with pytest.raises(StudioError) as gone:
        client.replace_persons_annotation(number, row)
    assert gone.value.status == 404
    # the key is free again
    assert client.annotation_of(first, ana) is None
    client.create_persons_annotation(row)
    assert [a.completed_by for a in client.task(first).annotations] == [ana]


def test_users_are_listed_with_their_names(client: StudioClient) -> None:
    email = f"ben-{uuid.uuid4().hex}@people.invalid"
    ben = client.add_person(email, "Ben Éx <i>")
    found = {row.id: row for row in client.users()}
    assert found[ben] == UserRow(ben, "Ben Éx <i>", email)
    assert len(found) > 1
    assert all(row.email for row in found.values())


def test_an_answer_of_nobody_or_about_nothing_is_refused(client: StudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, images(1))
    nobody = PersonsAnnotation(task, [box()], str(uuid.uuid4()), 987_654, 1.0)
    with pytest.raises(StudioError) as refused:
        client.create_persons_annotation(nobody)
    assert refused.value.status == 400
    ana = client.add_person(f"ana-{uuid.uuid4().hex}@people.invalid", "Ana")
    with pytest.raises(StudioError) as gone:
        client.create_persons_annotation(replace(nobody, completed_by=ana, task_id=10**9))
    assert gone.value.status == 404
