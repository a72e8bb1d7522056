"""Push: only what changed is sent, annotators see the old set or the new one, and a kill changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from ml_backend.artifacts.files import unguarded
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.verdicts import Verdict, read_verdicts, write_verdicts
from ml_backend.errors import StudioError
from ml_backend.instances import Instances
from ml_backend.masks.rle import encode_mask
from sync.rounds import pushed_notes
from sync.rounds.push import _chunks, push
from sync.rounds.push_plan import PushPlan, Shown, plan_push
from sync.rounds.pushed_notes import load_pushed
from sync.rounds.round_records import trained_round
from sync.settings import Settings
from sync.store.tables import AnnotationRecord, RoundRecord
from sync.studio.prepared import PreparedPredictions
from sync.studio.protocol import PredictionRow
from tests.sync.conftest import CONFIG_XML, HW, LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
A, B, A_BOUNDS = Shown("a"), Shown("b"), Shown("a", "other bounds")


@pytest.mark.parametrize(
    ("wanted", "held", "shown", "with_bounds", "plan"),
    [
        ({}, {}, "", False, PushPlan("new")),
        ({1: A, 2: A}, {}, "", False, PushPlan("new", add=(1, 2))),
        ({1: A, 2: A}, {"new": {1: A}}, "", False, PushPlan("new", add=(2,))),
        ({1: A, 2: A}, {"old": {1: A, 2: A}}, "old", False, PushPlan("old")),
        ({1: A, 2: A, 3: A}, {"old": {1: A, 2: A}}, "old", False, PushPlan("old", add=(3,))),
        ({1: B, 2: A}, {"old": {1: A, 2: A}}, "old", False, PushPlan("old", replace=(1,))),
        ({2: A}, {"old": {1: A, 2: A}}, "old", False, PushPlan("old")),  # task 1 was finished
        ({1: A_BOUNDS}, {"old": {1: A}}, "old", False, PushPlan("old")),
        ({1: A_BOUNDS}, {"old": {1: A}}, "old", True, PushPlan("old", replace=(1,))),
        (dict.fromkeys(range(9), B), {"old": dict.fromkeys(range(9), A)}, "old", False,
         PushPlan("new", add=tuple(range(9)))),
        (dict.fromkeys(range(9), B), {"old": dict.fromkeys(range(9), A), "new": {0: B, 1: B}}, "old", False,
         PushPlan("new", add=tuple(range(2, 9)))),
    ],
)  # fmt: skip
def test_what_is_sent(
    wanted: Mapping[int, Shown],
    held: Mapping[str, Mapping[int, Shown]],
    shown: str,
    with_bounds: bool,
    plan: PushPlan,
) -> None:
    assert plan_push(wanted, held, shown=shown, fresh="new", with_bounds=with_bounds) == plan


def _pushed(make_world: MakeWorld, n: int = 30, **options: Any) -> tuple[World, RoundRecord]:
    world = make_world(n, question_budget=0, **options)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world, _record(world)


def _record(world: World) -> RoundRecord:
    record = trained_round(world.open().db)
    assert record is not None
    return record


def _decide(world: World, record: RoundRecord, *numbers: int, verdict: int = -1) -> None:
    """Reject (or accept) the first mask of these tasks, as answers would."""
    folder = world.open().paths.round(record.number)
    rows = list(read_verdicts(folder).values())
    pool = world.open().paths.pool(record.model_version)
    nan = float("nan")
    for number in numbers:
        key = read_pool(pool, columns=("key", "task_id"), task_ids=[world.tasks[number]]).key[0]
        rows.append(Verdict(str(key), "disc", verdict, True, -1, -1, nan, nan, nan, "verdict"))
    write_verdicts(folder, rows)


class Calls:
    """Counts calls of the fake Label Studio, and rows sent."""

    def __init__(self, world: World) -> None:
        self.by_name: Counter[str] = Counter()
        self.rows = 0
        world.studio.before_call = lambda name: self.by_name.update([name])
        original = world.studio.import_predictions

        def counted(project_id: int, rows: Any) -> int:
            self.rows += len(rows)
            return original(project_id, rows)

        world.studio.import_predictions = counted  # type: ignore[method-assign]


def test_changed_decisions_send_their_own_tasks_only(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world)
    label = world.studio.project(world.project_id).model_version
    before = {task: world.studio.predictions(task) for task in world.tasks}
    _decide(world, record, 10, 12, 20)
    calls = Calls(world)
    report = step(push, world.open(), _record(world))
    assert (report.sent, report.version, calls.rows) == (3, label, 0)
    assert calls.by_name["replace_prediction"] == 3
    assert calls.by_name["predicted_tasks"] == 0
    assert world.studio.project(world.project_id).model_version == label
    changed = [n for n, task in enumerate(world.tasks) if world.studio.predictions(task) != before[task]]
    assert changed == [10, 12, 20]
    assert all(len(world.studio.predictions(task)) == 1 for task in world.tasks[6:])
    assert step(push, world.open(), _record(world)).sent == 0


def test_many_changed_decisions_send_a_new_set_and_switch_to_it(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world)
    label = world.studio.project(world.project_id).model_version
    _decide(world, record, *range(8, 16))
    report = step(push, world.open(), _record(world))
    assert report.sent == 24
    assert report.version != label
    assert list(world.studio.prediction_versions(world.project_id)) == [report.version]


def test_at_every_moment_a_whole_set_is_shown_and_other_people_s_predictions_stay(
    make_world: MakeWorld,
) -> None:
    world, record = _pushed(make_world, push_rows=5)
    _decide(world, record, *range(8, 16))
    foreign = [PredictionRow(world.tasks[number], [], 0.5, "another-model") for number in (7, 8)]
    world.studio.import_predictions(world.project_id, foreign)
    project = world.studio._db["projects"][str(world.project_id)]
    seen: list[tuple[str, int]] = []

    def shown(name: str) -> None:
        rows = world.studio._db["predictions"].values()
        tasks = {row["task"] for row in rows if row["model_version"] == project["model_version"]}
        seen.append((name, len(tasks & set(world.tasks[6:]))))

    world.studio.before_call = shown
    report = step(push, world.open(), _record(world))
    world.studio.before_call = None
    shown("afterwards")
    assert {"import_predictions", "set_model_version", "delete_predictions"} <= {name for name, _ in seen}
    assert [part for part in seen if part[1] != 24] == []
    assert world.studio.prediction_versions(world.project_id) == {report.version: 24, "another-model": 2}


def test_a_submitted_annotation_sends_and_lists_nothing(make_world: MakeWorld) -> None:
    world, _ = _pushed(make_world)
    worker = world.worker()
    worker.look(world.project_id)
    world.label(10)
    calls = Calls(world)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.pushed is None
    assert calls.rows == 0
    assert not {"predicted_tasks", "prediction_versions", "import_predictions"} & set(calls.by_name)


def test_a_look_at_an_unchanged_project_loads_no_regions_and_no_snapshot(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = _pushed(make_world, overlap_s=0.0)  # the overlap compares what changed a moment ago
    worker = world.worker()
    worker.look(world.project_id)
    parts: list[object] = []
    monkeypatch.setattr("ml_backend.artifacts.pool_index.read_columns", lambda *a: parts.append(a))
    monkeypatch.setattr("sync.rounds.train.load_snapshot", lambda *a: parts.append(a))
    regions: list[object] = []

    def loaded(target: AnnotationRecord, _: object) -> None:
        if "regions" in target.__dict__:
            regions.append(target.id)

    event.listen(AnnotationRecord, "load", loaded)
    report = worker.look(world.project_id)
    event.remove(AnnotationRecord, "load", loaded)
    assert report is not None
    assert report.error == ""
    assert parts == regions == []


def test_requests_grow_from_a_small_one_up_to_the_largest_that_is_allowed() -> None:
    rows = [PredictionRow(task, [], 0.5, "v") for task in range(3000)]
    for given, sizes in (
        ({}, [500, 2000, 500]),
        ({"push_rows": 700}, [500, 700, 700, 700, 400]),
        ({"push_rows": 100}, [100] * 30),
    ):
        chunks = list(_chunks(Settings(**given), CONFIG_XML, iter(rows)))
        assert [len(chunk) for chunk in chunks] == sizes
        assert [row.task_id for chunk in chunks for row in chunk] == list(range(3000))
    one = PreparedPredictions(CONFIG_XML, rows[-1:]).size
    small = list(_chunks(Settings(push_bytes=1024), CONFIG_XML, iter(rows)))
    assert all(chunk.size < 1024 + 2 * one for chunk in small)
    assert len(small) > 10
    with pytest.raises(StudioError, match=r"score 7\.0"):
        list(_chunks(Settings(), CONFIG_XML, iter([PredictionRow(1, [], 7.0, "v")])))


def test_a_kill_between_sending_and_noting_doubles_nothing(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world, push_rows=5)
    (new,) = world.studio.import_tasks(world.project_id, [world.studio.task(world.tasks[9]).data])
    world.tasks.append(new)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for numbers in ((10, 11), tuple(range(12, 24))):  # replaced one by one, then a whole new set
        _decide(world, record, *numbers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sync.rounds.push.note_pushed", killed)
            with pytest.raises(KeyboardInterrupt):
                step(push, world.open(), _record(world))
        report = step(push, world.open(), _record(world))
        assert list(world.studio.prediction_versions(world.project_id)) == [report.version]
        assert all(len(world.studio.predictions(task)) == 1 for task in world.tasks[6:30])
        assert step(push, world.open(), _record(world)).sent == 0
    world.worker().look(world.project_id)
    assert len(world.studio.predictions(new)) == 1


def test_predictions_that_somebody_deleted_are_sent_again(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world)
    for row in list(world.studio._db["predictions"].values())[:2]:
        del world.studio._db["predictions"][str(row["id"])]
    _decide(world, record, 20)
    report = step(push, world.open(), _record(world))
    assert report.sent == 3
    assert all(len(world.studio.predictions(task)) == 1 for task in world.tasks[6:])


def test_what_was_sent_is_known_after_a_rebuild(make_world: MakeWorld) -> None:
    from sync.projects.rebuild import rebuild

    world, _ = _pushed(make_world)
    rebuild(world.settings, world.store, world.studio)
    assert step(push, world.open(), _record(world)).sent == 0


def test_an_empty_mask_in_a_pool_of_an_earlier_release_does_not_stop_the_push(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world)
    task = world.tasks[10]
    folder = world.open().paths.pool(record.model_version)
    mask = np.zeros(HW, bool)
    mask[5:9, 5:9] = True
    good, empty = encode_mask(mask), encode_mask(np.zeros(HW, bool))
    instances = Instances(
        np.zeros(2, np.int64), np.array([[5, 5, 9, 9], [0, 0, 0, 0]], np.float32), [good, empty],
        np.array([0.9, 0.8], np.float32), np.ones(2, np.float32), np.zeros((2, 3), np.float32),
    )  # fmt: skip
    with PoolWriter(folder, LABELS, embedding_dim=3) as writer:
        writer.add(task, instances, hw=HW, score=0.5)
    assert step(push, world.open(), _record(world)).sent == 1
    (row,) = world.studio.predictions(task)
    assert len(row.result) == 1


@pytest.mark.parametrize("is_withdrawn", [True, False])
def test_a_kill_while_predictions_are_replaced_leaves_none_as_it_should_not_be(
    make_world: MakeWorld, *, is_withdrawn: bool
) -> None:
    world, record = _pushed(make_world)
    folder = world.open().paths.round(record.number)
    before = [world.studio.predictions(world.tasks[number]) for number in (10, 11)]
    verdicts = list(read_verdicts(folder).values())
    _decide(world, record, 10, 11)
    replace, replaced = world.studio.replace_prediction, []

    def killed(project_id: int, row: Any) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(row.task_id)
        replace(project_id, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.studio, "replace_prediction", killed)
        with pytest.raises(KeyboardInterrupt):
            step(push, world.open(), _record(world))
    assert replaced == [world.tasks[10]]
    assert world.studio.predictions(world.tasks[10]) != before[0]
    if is_withdrawn:
        write_verdicts(folder, verdicts)
    step(push, world.open(), _record(world))
    now = [world.studio.predictions(world.tasks[number]) for number in (10, 11)]
    assert [one == other for one, other in zip(now, before, strict=True)] == [is_withdrawn] * 2
    assert step(push, world.open(), _record(world)).sent == 0


def test_notes_of_a_push_grow_with_what_is_sent_alone(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk adds its own tasks; the whole is written at the beginning and at the end."""
    noted: list[int] = []
    written: list[int] = []
    note, save = pushed_notes.note_pushed, pushed_notes.save_pushed

    def noting(folder: Path, version: str, rows: Mapping[int, Shown], **more: Any) -> None:
        noted.append(len(rows))
        note(folder, version, rows, **more)

    def saving(folder: Path, held: Mapping[str, Mapping[int, Shown]], **more: Any) -> None:
        written.append(sum(map(len, held.values())))
        save(folder, held, **more)

    monkeypatch.setattr("sync.rounds.push.note_pushed", noting)
    monkeypatch.setattr("sync.rounds.push.save_pushed", saving)
    world, record = _pushed(make_world, push_rows=5)
    assert (noted, written) == ([5, 5, 5, 5, 4], [0, 24])
    folder = world.open().paths.round(record.number)
    assert not (folder / "pushed").exists()
    assert sorted(len(rows) for rows in load_pushed(folder).values()) == [24]


def test_only_changed_rows_are_sent(make_world: MakeWorld) -> None:
    world, record = _pushed(make_world)
    before = {task: world.studio.predictions(task) for task in world.tasks}
    _decide(world, record, 9, 17)
    assert step(push, world.open(), _record(world)).sent == 2
    after = {task: world.studio.predictions(task) for task in world.tasks}
    assert [n for n, task in enumerate(world.tasks) if before[task] != after[task]] == [9, 17]


A1, A2 = Shown("a1"), Shown("a2", "b")


def test_notes_are_read_as_they_were_made(tmp_path: Path) -> None:
    pushed_notes.save_pushed(tmp_path, {"old": {1: A1}, "new": {2: A1}}, guard=unguarded)
    pushed_notes.note_pushed(tmp_path, "new", {2: A2, 3: A1}, guard=unguarded)
    pushed_notes.note_pushed(tmp_path, "new", {3: A2}, guard=unguarded)
    held = {"old": {1: A1}, "new": {2: A2, 3: A2}}
    assert load_pushed(tmp_path) == held
    chunks = sorted((tmp_path / "pushed").iterdir())
    assert len(chunks) == 2
    last = chunks[-1].read_bytes()
    pushed_notes.save_pushed(tmp_path, held, guard=unguarded)
    assert [path.name for path in tmp_path.iterdir()] == ["pushed.json"]
    (tmp_path / "pushed").mkdir()
    chunks[-1].write_bytes(last)  # a kill before the chunks were taken away
    assert load_pushed(tmp_path) == held


def test_notes_of_an_earlier_release_are_read(tmp_path: Path) -> None:
    pushed_notes.save_pushed(tmp_path, {"new": {2: A1}}, guard=unguarded)
    lines = b'{"new": {"3": ["a2", "b"]}}\n\n{"new": {"4": ["cut sh'  # a kill in the middle of a line
    (tmp_path / "pushed.jsonl").write_bytes(lines)
    held = {"new": {2: A1, 3: A2}}
    assert load_pushed(tmp_path) == held
    pushed_notes.note_pushed(tmp_path, "new", {5: A1}, guard=unguarded)
    held["new"][5] = A1
    assert load_pushed(tmp_path) == held
    pushed_notes.save_pushed(tmp_path, held, guard=unguarded)
    assert [path.name for path in tmp_path.iterdir()] == ["pushed.json"]
