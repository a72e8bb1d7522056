"""Infer: images that could not be fetched are tried again, changed ones are looked at again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ml_backend.artifacts.pools import done_tasks, read_tasks
from ml_backend.errors import BadImage, ImageUnavailable
from ml_backend.images.fetch import Fetcher
from ml_backend.images.store import ImageRef, ImageStore
from ml_backend.settings import BackendSettings
from sync.rounds.infer_plan import LookedAt, next_try, tasks_left
from sync.rounds.round_records import trained_round
from sync.store.tables import InferenceRecord
from sync.worker.look import LookReport
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("images", "done", "failed", "looked_at", "left"),
    [
        ({1: "a", 2: "b"}, {1}, set(), {}, [2]),
        ({1: "a"}, {1}, set(), {1: LookedAt("a")}, []),
        ({1: "a"}, {1}, set(), {1: LookedAt("other")}, [1]),
        ({1: "a"}, {1}, {1}, {}, [1]),
        ({1: "a"}, {1}, {1}, {1: LookedAt("a", 1, LATER)}, []),
        ({1: "a"}, {1}, {1}, {1: LookedAt("a", 1, EARLIER)}, [1]),
        ({1: "a"}, {1}, {1}, {1: LookedAt("a", 6, None)}, []),
    ],
)
def test_tasks_left(
    images: Mapping[int, str],
    done: set[int],
    failed: set[int],
    looked_at: Mapping[int, LookedAt],
    left: list[int],
) -> None:
    assert tasks_left(images, done, failed, looked_at, NOW) == left


def test_waits_grow_and_end() -> None:
    waits = [next_try(tries, NOW) for tries in range(1, 7)]
    assert waits[-1] is None
    seconds = [(wait - NOW).total_seconds() for wait in waits[:-1] if wait is not None]
    assert seconds == sorted(set(seconds))
    assert len(seconds) == 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ImageUnavailable), (503, ImageUnavailable), (429, ImageUnavailable), (404, BadImage)],
)
def test_which_answers_of_label_studio_may_pass(status: int, kind: type[BadImage], tmp_path: Any) -> None:
    settings = BackendSettings(data_dir=tmp_path, studio_url="http://studio", studio_token="t")
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(status)))
    with pytest.raises(BadImage) as caught:
        Fetcher(settings, client=client).fetch("/data/upload/1/a.png")
    assert type(caught.value) is kind


def _look(world: World) -> LookReport:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return report


class Outage:
    """The images of some tasks cannot be fetched."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tasks: set[int] = set()
        self.asked: list[int] = []
        original = ImageStore.get

        def get(store: ImageStore, value: str, *, task_id: int | None = None, **more: Any) -> ImageRef:
            self.asked.append(task_id or 0)
            if task_id in self.tasks:
                raise ImageUnavailable("HTTP 503", field="data.image")
            return original(store, value, task_id=task_id, **more)

        patch.setattr(ImageStore, "get", get)


def test_an_image_that_could_not_be_fetched_is_tried_again_later(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(10, question_budget=0)
    outage = Outage(monkeypatch)
    world.label(*range(5))
    task = world.tasks[9]
    outage.tasks = {task}
    _look(world)
    assert world.studio.predictions(task) == []
    outage.asked.clear()
    _look(world)
    assert outage.asked == [], "not at every look"

    def a_minute_later() -> None:
        with world.store.write() as session:
            record = session.get_one(InferenceRecord, (world.project_id, task))
            assert record.retry_at is not None
            record.retry_at -= timedelta(hours=13)

    a_minute_later()
    _look(world)
    assert outage.asked == [task]
    with world.store.read() as session:
        assert session.get_one(InferenceRecord, (world.project_id, task)).tries == 2
    outage.tasks.clear()
    a_minute_later()
    report = _look(world)
    assert report.pushed is not None
    assert report.pushed.sent == 1
    assert len(world.studio.predictions(task)) == 1


def test_a_damaged_image_is_not_tried_again_by_the_same_version(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(10, question_budget=0)
    (world.images / "009.png").write_text("no picture at all")
    world.label(*range(5))
    outage = Outage(monkeypatch)
    _look(world)
    assert world.tasks[9] in outage.asked
    outage.asked.clear()
    _look(world)
    assert outage.asked == []
    with world.store.read() as session:
        assert session.get_one(InferenceRecord, (world.project_id, world.tasks[9])).retry_at is None


def test_a_task_with_another_image_is_looked_at_again_and_review_goes_on(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(6))
    _look(world)
    task = world.tasks[9]
    row = world.studio._db["tasks"][str(task)]
    row["data"]["image"] = str((world.images / "002.png").resolve())
    world.studio._touch(row)
    record = trained_round(world.open().db)
    assert record is not None
    pool = world.open().paths.pool(record.model_version)
    before = dict(zip(read_tasks(pool).task_id.tolist(), read_tasks(pool).image_sha.tolist(), strict=True))
    shown = world.studio.predictions(task)
    _look(world)
    after = dict(zip(read_tasks(pool).task_id.tolist(), read_tasks(pool).image_sha.tolist(), strict=True))
    assert {t for t in after if after[t] != before[t]} == {task}
    assert len(world.studio.predictions(task)) == 1
    assert world.studio.predictions(task) != shown
    assert _look(world).pushed is None
    assert len(done_tasks(pool)) == 12, "ten unfinished tasks and two of the test split"
