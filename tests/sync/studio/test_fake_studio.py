"""What FakeStudio adds to the contract: persistence, played refusals, and its one difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ml_backend.errors import StudioError
from sync.studio.protocol import PredictionRow
from tests.fakes.label_studio import FakeStudio

CONFIG = """<View><BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
<Image name="image" value="$image"/></View>"""


def test_a_successor_finds_the_server_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    first = FakeStudio(path)
    project = first.create_project("kept project", CONFIG)
    tasks = first.import_tasks(project.id, [{"image": f"{i}.png"} for i in range(3)])
    first.import_predictions(project.id, [PredictionRow(task, [], 0.5, "v1") for task in tasks])
    first.set_model_version(project.id, "v1")
    other = first.as_user("other@example.com", "a long password")
    served = other.next_task(project.id)
    assert served is not None
    other.create_annotation(served.id, [])

    second = FakeStudio(path)
    assert second.project(project.id) == first.project(project.id)
    assert list(second.tasks(project.id)) == list(first.tasks(project.id))
    assert second.prediction_versions(project.id) == {"v1": 3}
    (new,) = second.import_tasks(project.id, [{"image": "3.png"}])
    assert new not in tasks
    assert second.task(new).updated_at > max(second.task(task).updated_at for task in tasks)
    assert second.as_user("other@example.com", "x").create_annotation(new, []).completed_by == (
        second.task(served.id).annotations[0].completed_by
    )


def test_a_crash_between_two_calls_loses_nothing_before_it(tmp_path: Path) -> None:
    path = tmp_path / "server.json"

    class Killed(BaseException):
        pass

    def kill_at_import(name: str) -> None:
        if name == "import_predictions":
            raise Killed

    studio = FakeStudio(path, before_call=kill_at_import)
    project = studio.create_project("kept project", CONFIG)
    tasks = studio.import_tasks(project.id, [{"image": "0.png"}])
    with pytest.raises(Killed):
        studio.import_predictions(project.id, [PredictionRow(tasks[0], [], 0.5, "v1")])
    successor = FakeStudio(path)
    assert successor.task_ids(project.id) == set(tasks)
    assert successor.prediction_versions(project.id) == {}
    assert json.loads(path.read_text())["db"]["projects"]
    assert [p.name for p in tmp_path.iterdir()] == ["server.json"], "no temporary file is left"


def test_refusals_can_be_played() -> None:
    def refuse(name: str) -> None:
        if name == "create_annotation":
            raise StudioError("the server is down", status=503)

    studio = FakeStudio()
    project = studio.create_project("some project", CONFIG)
    (task,) = studio.import_tasks(project.id, [{"image": "0.png"}])
    studio.before_call = refuse
    with pytest.raises(StudioError, match="down") as caught:
        studio.create_annotation(task, [])
    assert caught.value.status == 503
    assert studio.task(task).annotations == ()


def test_uploaded_images_can_be_opened(tmp_path: Path) -> None:
    picture = tmp_path / "a picture.png"
    Image.new("RGB", (4, 3)).save(picture)
    studio = FakeStudio()
    project = studio.create_project("some project", CONFIG)
    assert len(studio.upload_images(project.id, [picture])) == 1
    (row,) = studio.tasks(project.id)
    assert Image.open(str(row.data["image"])).size == (4, 3)
    with pytest.raises(StudioError, match="missing"):
        studio.upload_images(project.id, [tmp_path / "missing.png"])


def test_results_are_copies() -> None:
    studio = FakeStudio()
    project = studio.create_project("some project", CONFIG)
    (task,) = studio.import_tasks(project.id, [{"image": "0.png", "extra": {"a": 1}}])
    studio.task(task).data["extra"]["a"] = 2
    assert studio.task(task).data["extra"]["a"] == 1


def test_the_order_without_predictions_is_random_but_repeatable() -> None:
    def order(seed: int) -> list[int]:
        studio = FakeStudio(seed=seed)
        project = studio.create_project("some project", CONFIG)
        studio.import_tasks(project.id, [{"image": f"{i}.png"} for i in range(8)])
        found = []
        while (row := studio.next_task(project.id)) is not None:
            found.append(row.id)
            studio.create_annotation(row.id, [])
        return found

    assert order(1) == order(1)
    assert sorted(order(1)) == sorted(order(2))
    assert order(1) != sorted(order(1)) or order(2) != sorted(order(2))
