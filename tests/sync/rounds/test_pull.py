"""Pull: whatever changed in Label Studio reaches the store, once, and nothing else does."""

from __future__ import annotations

import base64
import copy
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, select

from ml_backend.errors import BadLabelConfig, StudioError
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region, started_from
from ml_backend.masks.rle import encode_mask, rle_box
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds.project import refreshed
from sync.rounds.pull import TaskDifferences, compare_tasks, is_comparison_due, listed_since, pull
from sync.rounds.registration import register_project
from sync.rounds.task_queries import effective_annotation
from sync.store.tables import AnnotationRecord, ProjectRecord, TaskRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _dump(world: World) -> tuple[list[Any], list[Any]]:
    with world.store.read() as session:
        tasks = session.scalars(select(TaskRecord).order_by(TaskRecord.id)).all()
        annotations = session.scalars(select(AnnotationRecord).order_by(AnnotationRecord.id)).all()
    return (
        [(t.id, t.image, t.finished, t.broken, t.updated_at) for t in tasks],
        [(a.id, a.task_id, a.digest, a.was_cancelled, a.updated_at, a.broken) for a in annotations],
    )


def test_first_pull_then_nothing_left(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.label(0, 2)
    report = step(pull, world.open())
    assert (report.tasks_new, report.annotations_created) == (4, 2)
    before = _dump(world)
    assert step(pull, world.open()).changes == 0
    assert _dump(world) == before
    with world.store.read() as session:
        regions = session.scalars(select(AnnotationRecord)).first()
        assert regions is not None
        assert [region["label"] for region in regions.regions] == [
            label for label, _ in world.scenes[0].masks
        ]
        assert regions.regions[0]["rle"]["size"] == [48, 64]


def test_changed_skipped_and_deleted_annotations(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.label(0, 1)
    skip = world.studio.create_annotation(world.tasks[2], [], was_cancelled=True)
    step(pull, world.open())
    with world.store.read() as session:
        assert [t.finished for t in session.scalars(select(TaskRecord).order_by(TaskRecord.id))] == [
            True,
            True,
            False,
        ]
        first = session.scalars(
            select(AnnotationRecord).where(AnnotationRecord.task_id == world.tasks[0])
        ).one()
    world.studio.update_annotation(first.id, world.scenes[0].result()[:1])
    second = world.studio.task(world.tasks[1]).annotations[0]
    world.studio.delete_annotation(second.id)
    world.studio.delete_annotation(skip.id)
    report = step(pull, world.open())
    assert (report.annotations_changed, report.annotations_deleted, report.annotations_created) == (1, 2, 0)
    with world.store.read() as session:
        assert len(session.get_one(AnnotationRecord, first.id).regions) == 1
        assert [t.finished for t in session.scalars(select(TaskRecord).order_by(TaskRecord.id))] == [
            True,
            False,
            False,
        ]


def test_deleted_tasks_disappear_with_their_annotations(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.label(0)
    step(pull, world.open())
    world.studio.delete_tasks(world.project_id, [world.tasks[0]])
    assert step(pull, world.open()).tasks_gone == 1
    tasks, annotations = _dump(world)
    assert [task[0] for task in tasks] == world.tasks[1:]
    assert annotations == []


def test_one_deleted_and_one_added_task_are_both_seen(make_world: MakeWorld) -> None:
    world = make_world(3)
    step(pull, world.open())
    world.studio.delete_tasks(world.project_id, [world.tasks[0]])
    (new,) = world.studio.import_tasks(world.project_id, [{"image": "x.png"}])
    step(pull, world.open())
    assert [task[0] for task in _dump(world)[0]] == [*world.tasks[1:], new]


T1, T2 = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("there", "here", "gone", "to_fetch"),
    [
        ({}, {}, (), ()),
        ({1: T1}, {1: T1}, (), ()),
        ({1: T1, 2: T1}, {2: T1, 3: T1}, (3,), (1,)),
        ({1: T2, 2: T1}, {1: T1, 2: T1}, (), (1,)),
    ],
)
def test_differences_of_all_tasks(
    there: dict[int, datetime],
    here: dict[int, datetime],
    gone: tuple[int, ...],
    to_fetch: tuple[int, ...],
) -> None:
    assert compare_tasks(there, here) == TaskDifferences(gone, to_fetch)


@pytest.mark.parametrize(
    ("counted", "stored", "surplus", "compared_at", "due"),
    [
        (5, 5, 0, T1, False),
        (5, 5, 0, None, True),
        (5, 5, None, T1, False),
        (6, 5, 0, T1, True),
        (4, 5, 0, T1, True),
        (4, 5, 1, T1, False),  # Label Studio counted one too few already when all were compared
        (5, 5, 1, T1, True),
        (5, 5, 0, T1 - timedelta(seconds=600), True),
    ],
)
def test_when_all_tasks_are_compared(
    counted: int, stored: int, surplus: int | None, compared_at: datetime | None, due: bool
) -> None:
    now = T1 + timedelta(seconds=10)
    assert is_comparison_due(counted, stored, surplus, compared_at, now, 600.0) is due


def _committed_late(world: World, task: int) -> None:
    """Label Studio shows a change only now whose time lies far before the last pull."""
    world.studio._db["tasks"][str(task)]["updated_at"] = "2020-01-01T00:00:00+00:00"


def test_a_task_committed_late_is_fetched(make_world: MakeWorld) -> None:
    world = make_world(3)
    step(pull, world.open())
    (late,) = world.studio.import_tasks(world.project_id, [{"image": "x.png"}])
    _committed_late(world, late)
    assert step(pull, world.open()).tasks_new == 1
    assert [task[0] for task in _dump(world)[0]] == [*world.tasks, late]


def test_one_deleted_and_one_committed_late_are_both_seen(make_world: MakeWorld) -> None:
    world = make_world(3, compare_s=0.001)
    step(pull, world.open())
    world.studio.delete_tasks(world.project_id, [world.tasks[0]])
    (late,) = world.studio.import_tasks(world.project_id, [{"image": "x.png"}])
    _committed_late(world, late)
    step(pull, world.open())
    assert [task[0] for task in _dump(world)[0]] == [*world.tasks[1:], late]


def test_an_annotation_committed_late_is_found_by_the_next_comparison(make_world: MakeWorld) -> None:
    world = make_world(3, compare_s=0.001)
    step(pull, world.open())
    world.label(1)
    _committed_late(world, world.tasks[1])
    assert step(pull, world.open()).annotations_created == 1


def test_an_annotation_committed_a_little_late_is_found_without_a_comparison(make_world: MakeWorld) -> None:
    """Its time lies before the newest change that was seen, by less than the overlap."""
    world = make_world(3, overlap_s=60.0, compare_s=1e9)
    world.label(0)
    step(pull, world.open())
    with world.store.read() as session:
        newest = session.get_one(ProjectRecord, world.project_id).watermark
    assert newest is not None
    world.label(1)
    late = (newest - timedelta(seconds=30)).isoformat()
    world.studio._db["tasks"][str(world.tasks[1])]["updated_at"] = late
    assert step(pull, world.open()).annotations_created == 1


def test_nothing_new_costs_two_requests(make_world: MakeWorld) -> None:
    world = make_world(3)
    step(pull, world.open())
    calls: list[str] = []
    world.studio.before_call = calls.append
    step(pull, world.open())
    assert calls == ["tasks", "project"]


def test_tasks_that_were_counted_just_now_are_counted_again_only_when_there_is_news(
    make_world: MakeWorld,
) -> None:
    world = make_world(3, overlap_s=0.0)
    step(pull, world.open())
    calls: list[str] = []
    world.studio.before_call = calls.append
    project = world.open()

    def pulled(counted: int) -> int:
        calls.clear()
        db, studio, config = project.db, project.studio, project.config
        return pull(db, studio, config, project.settings, project.progress, counted=counted).changes

    assert pulled(3) == 0
    assert calls == ["tasks"]
    world.studio.import_tasks(world.project_id, [{"image": "new.png"}])
    assert pulled(3) == 1  # counted before the import
    assert calls == ["tasks", "project"]
    world.studio.delete_tasks(world.project_id, [world.tasks[0]])
    assert pulled(3) == 1
    assert calls == ["tasks", "task_times"]


def test_an_edited_config_of_many_annotations_is_one_statement(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.label(0, 1, 2)
    step(pull, world.open())
    world.studio._db["projects"][str(world.project_id)]["label_config"] = build_label_config(["disc"])
    loaded: list[object] = []

    def count(target: object, _: object) -> None:
        loaded.append(target)

    event.listen(AnnotationRecord, "load", count)
    refreshed(world.open())
    event.remove(AnnotationRecord, "load", count)
    assert loaded == []
    with world.store.read() as session:
        assert set(session.scalars(select(AnnotationRecord.digest))) == {""}


def test_broken_tasks_are_named_and_the_others_are_unharmed(make_world: MakeWorld) -> None:
    world = make_world(2)
    world.label(0)
    bad = world.scenes[1].result()
    bad[1]["value"] = {"format": "rle", "rle": "no list", "brushlabels": ["disc"]}
    world.studio.create_annotation(world.tasks[1], bad)
    (no_image,) = world.studio.import_tasks(world.project_id, [{"image": ""}])
    step(pull, world.open())
    with world.store.read() as session:
        good, broken, empty = (session.get_one(TaskRecord, task) for task in (*world.tasks, no_image))
    assert good.broken == ""
    assert "result[1]" in broken.broken
    assert "'image'" in empty.broken


def test_a_png_bomb_breaks_its_annotation_only(make_world: MakeWorld) -> None:
    world = make_world(2)
    xml = build_label_config(["disc", "bar"], output="bitmask")
    world.studio._db["projects"][str(world.project_id)]["label_config"] = xml
    disc = Region("r0", "mask", "disc", encode_mask(np.ones((48, 64), bool)), (0.0, 0.0, 64.0, 48.0))
    size, bomb = 20_000, to_result([disc], parse_label_config(xml), (48, 64))
    world.studio.create_annotation(world.tasks[0], bomb)
    head = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(4 * size))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    bomb = copy.deepcopy(bomb)
    bomb[0]["value"]["imageDataURL"] = "data:image/png;base64," + base64.b64encode(data).decode()
    bomb[0] |= {"original_width": size, "original_height": size}
    world.studio.create_annotation(world.tasks[1], bomb)
    report = step(pull, refreshed(world.open()))
    assert report.annotations_created == 2
    with world.store.read() as session:
        good, broken = (session.get_one(TaskRecord, task) for task in world.tasks)
    assert good.broken == ""
    assert "too many to decode" in broken.broken


def test_leftovers_of_smart_prompts_are_dropped(make_world: MakeWorld) -> None:
    world = make_world(1)
    result = world.scenes[0].result()
    prompt = {
        "id": result[0]["id"], "from_name": "click", "to_name": "image", "type": "keypointlabels",
        "original_width": 64, "original_height": 48, "is_positive": True,
        "value": {"x": 5, "y": 5, "width": 0.3, "keypointlabels": ["disc"]},
    }  # fmt: skip
    world.studio.create_annotation(world.tasks[0], [prompt, *result])
    step(pull, world.open())
    with world.store.read() as session:
        assert len(session.scalars(select(AnnotationRecord)).one().regions) == len(result)


def test_a_killed_pull_goes_on(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(5)
    world.label(1, 3)
    monkeypatch.setattr("sync.rounds.pull._BATCH", 2)
    looks = 0

    def stop(place: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(pull, world.open(stop))
    assert len(_dump(world)[0]) == 4
    step(pull, world.open())
    undisturbed = make_world(0, world.studio, name="other")
    undisturbed.project_id = world.project_id
    register_project(undisturbed.settings, undisturbed.store, world.studio, world.project_id)
    step(pull, undisturbed.open())
    assert _dump(world) == _dump(undisturbed)


def test_a_refusal_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(2)
    step(pull, world.open())
    before = _dump(world)
    world.label(0)

    def refuse(call: str) -> None:
        if call == "tasks":
            raise StudioError("busy", status=503)

    world.studio.before_call = refuse
    with pytest.raises(StudioError, match="busy"):
        step(pull, world.open())
    assert _dump(world) == before
    world.studio.before_call = None
    assert step(pull, world.open()).annotations_created == 1


def test_an_edited_config_reads_everything_again(make_world: MakeWorld) -> None:
    world = make_world(2)
    world.label(0)
    step(pull, world.open())
    row = world.studio._db["projects"][str(world.project_id)]
    row["label_config"] = build_label_config(["disc"])  # bars are not known any more
    project = refreshed(world.open())
    assert project.config.labels == ("disc",)
    step(pull, project)
    with world.store.read() as session:
        assert "'bar'" in session.get_one(TaskRecord, world.tasks[0]).broken
    row["label_config"] = "<View/>"
    with pytest.raises(BadLabelConfig):
        refreshed(world.open())


def test_the_effective_annotation_is_ground_truth_or_the_newest(make_world: MakeWorld) -> None:
    world = make_world(1)
    for _ in range(2):
        world.label(0)
    world.studio.create_annotation(world.tasks[0], [], was_cancelled=True)
    step(pull, world.open())
    with world.store.read() as session:
        rows = list(session.scalars(select(AnnotationRecord).order_by(AnnotationRecord.id)))
    assert effective_annotation(rows) is rows[1]
    rows[0].ground_truth = True
    assert effective_annotation(rows) is rows[0]
    assert effective_annotation(rows[2:]) is None


def _clicked(world: World, proposal: int, mask: Any, *, origin: str = "manual", **fields: Any) -> Any:
    """A mask that a click made, as the editor stores it once it is accepted."""
    config = parse_label_config(world.studio.project(world.project_id).label_config)
    label = world.scenes[0].masks[proposal][0]
    rle = encode_mask(mask)
    (item,) = to_result(
        [Region("clicked", "mask", label, rle, rle_box(rle), 0.7, **fields)], config, (48, 64)
    )
    return item | {"origin": origin}


def test_a_proposal_that_an_accepted_click_replaced_is_left_out(make_world: MakeWorld) -> None:
    world = make_world(1)
    masks = [mask for _, mask in world.scenes[0].masks]
    proposals = [item | {"origin": "prediction"} for item in world.scenes[0].result()]
    first = str(proposals[0]["id"])
    part = masks[0].copy()
    part[: int(np.flatnonzero(masks[0].any(1)).mean())] = False
    started = {"meta": started_from(first)}

    def stored(*result: Any) -> dict[str, list[str]]:
        made = world.studio.create_annotation(world.tasks[0], list(result))
        step(pull, world.open())
        with world.store.read() as session:
            rows = session.get_one(AnnotationRecord, made.id).regions
        return {row["id"]: row.get("replaced", []) for row in rows}

    others = {str(item["id"]): list[str]() for item in proposals[1:]}
    # the same object
    assert stored(*proposals, _clicked(world, 0, masks[0])) == others | {"clicked": [first]}
    # a part of it that started there
    assert stored(*proposals, _clicked(world, 0, part, **started)) == others | {"clicked": [first]}
    # a part that started elsewhere, a proposal that somebody changed, a mask drawn by hand, another place
    everything = others | {first: [], "clicked": []}
    assert stored(*proposals, _clicked(world, 0, part)) == everything
    changed = [proposals[0] | {"origin": "prediction-changed"}, *proposals[1:]]
    assert stored(*changed, _clicked(world, 0, masks[0], **started)) == everything
    drawn = {k: v for k, v in _clicked(world, 0, masks[0]).items() if k != "score"}
    assert stored(*proposals, drawn) == everything
    far = np.zeros((48, 64), bool)
    far[0, 0] = True
    assert stored(*proposals, _clicked(world, 0, far, **started)) == everything


def test_clicks_that_nobody_accepted_are_told(make_world: MakeWorld) -> None:
    world = make_world(2)
    result = world.scenes[0].result()
    points = [
        {
            "id": name, "from_name": "click", "to_name": "image", "type": "keypointlabels",
            "original_width": 64, "original_height": 48,
            "value": {"x": 5, "y": 5, "width": 0.3, "keypointlabels": ["disc"]},
        }
        for name in ("a", "b", result[0]["id"])  # the last one is of a region that was accepted
    ]  # fmt: skip
    world.studio.create_annotation(world.tasks[0], [*points, *result])
    world.studio.create_annotation(world.tasks[1], world.scenes[1].result())
    step(pull, world.open())
    with world.store.read() as session:
        left = session.scalars(select(AnnotationRecord.clicks_left).order_by(AnnotationRecord.task_id))
        assert list(left) == [2, 0]
    found = status(world.settings, world.store)
    assert found["projects"][0]["clicks_left"] == [world.tasks[0]]
    (line,) = [line for line in status_lines(found) if "nobody accepted" in line]
    assert f"1 task was submitted with clicks whose mask nobody accepted ({world.tasks[0]})" in line


@pytest.mark.parametrize(
    ("watermark", "listed", "since"),
    [
        (None, None, None),
        (None, (T2, T1), None),  # the store was emptied
        (T1, None, -30),
        (T1, (T1 + timedelta(seconds=500), T1), 470),  # quiet since: nothing is listed again
        (T1, (T1 - timedelta(seconds=5), T1), -30),  # the server's clock says whole seconds
        (T1, (T2, T1 + timedelta(seconds=1)), -30),  # the store came from a backup made before that listing
    ],
)
def test_from_when_on_changes_are_listed(
    watermark: datetime | None, listed: tuple[datetime, datetime] | None, since: int | None
) -> None:
    found = listed_since(watermark, listed, 30.0)
    assert found == (None if since is None else T1 + timedelta(seconds=since))


def test_what_was_listed_is_not_listed_again_once_the_overlap_has_passed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(4)
    project = world.open()
    assert step(pull, project).tasks_seen == 4
    assert step(pull, project).tasks_seen == 4  # within the overlap of the import
    later = datetime.now(UTC) + timedelta(seconds=60)
    monkeypatch.setattr(world.studio, "server_time", lambda: later)
    step(pull, project)  # listed all until then
    assert step(pull, project).tasks_seen == 0
    assert step(pull, world.open()).tasks_seen == 4  # another worker cannot know


def test_a_change_that_no_listing_shows_is_found_piece_by_piece(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change committed too late, far below the watermark: all tasks are compared, two at each pull."""
    world = make_world(6, compare_s=0.001, overlap_s=0.0)
    project = world.open()
    step(pull, project)
    world.label(3)
    hidden = world.studio._get("tasks", world.tasks[3])
    hidden["updated_at"] = "2001-01-01T00:00:00+00:00"
    monkeypatch.setattr("sync.rounds.pull._PIECE", 2)
    asked = []
    task_times = world.studio.task_times

    def heard(project_id: int, *, after: int = 0, limit: int | None = None) -> dict[int, datetime]:
        asked.append((after, limit))
        return task_times(project_id, after=after, limit=limit)

    monkeypatch.setattr(world.studio, "task_times", heard)
    assert [step(pull, project).annotations_created for _ in range(4)] == [0, 1, 0, 0]
    tasks = world.tasks
    assert asked == [(0, 2), (tasks[1], 2), (tasks[3], 2), (tasks[5], 2)]
    step(pull, project)
    assert asked[4:] == [(0, 2)]  # and from the beginning again


def test_differences_in_a_piece_do_not_reach_beyond_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(6, compare_s=0.001, overlap_s=0.0)
    project = world.open()
    step(pull, project)
    monkeypatch.setattr("sync.rounds.pull._PIECE", 2)
    for _ in range(4):
        assert step(pull, project).changes == 0
    assert len(_dump(world)[0]) == 6
