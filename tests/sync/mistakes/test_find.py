"""Likely mistakes on the fake Label Studio: what is planted is found, by a model that never saw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.artifacts.mistakes import MistakeTable, read_mistakes
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.masks.rle import encode_mask
from sync.mistakes.find import find_mistakes
from sync.mistakes.judges import _known_tasks, all_judges, choose_judges
from sync.mistakes.look_here import TITLE
from sync.mistakes.marks import LINE_FIELD, OK_FIELD, mark_of
from sync.rounds.round_records import trained_round
from sync.rounds.task_queries import finished_digests
from tests.sync.conftest import CONFIG_XML, HW, World
from tests.sync.steps import step

Masks = list[tuple[str, np.ndarray[Any, Any]]]
NONE = (0.0, 0.0, 1.0, 1.0)


def annotate(world: World, number: int, masks: Masks) -> None:
    regions = [Region(f"r{i}", "mask", label, encode_mask(m), NONE) for i, (label, m) in enumerate(masks)]
    world.studio.create_annotation(
        world.tasks[number], to_result(regions, parse_label_config(CONFIG_XML), HW)
    )


def planted(world: World) -> dict[str, int]:
    """Finish four tasks, three of them with one mistake each; the tasks by mistake."""
    lost, moved, swapped, right = 8, 9, 10, 11
    annotate(world, lost, world.scenes[lost].masks[1:])
    (label, mask), *rest = world.scenes[moved].masks
    annotate(world, moved, [(label, np.roll(mask, 6, axis=0)), *rest])
    (label, mask), *rest = world.scenes[swapped].masks
    annotate(world, swapped, [({"disc": "bar", "bar": "disc"}[label], mask), *rest])
    world.label(right)
    return {"overlooked": world.tasks[lost], "placed": world.tasks[moved], "swapped": world.tasks[swapped]}


def listed(world: World) -> MistakeTable:
    project = world.open()
    record = trained_round(project.db)
    assert record is not None
    table = read_mistakes(project.paths.mistakes(record.model_version))
    assert table is not None
    return table


def look(world: World) -> None:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""


def played(make_world: Callable[..., World], **options: Any) -> tuple[World, dict[str, int]]:
    """A first round on eight right tasks, then four tasks that are finished after it."""
    world = make_world(14, early_s=0, train_clicks=False, **options)
    world.label(*range(8))
    look(world)
    tasks = planted(world)
    look(world)
    return world, tasks


def test_planted_mistakes_are_found_with_place_and_reason(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    found = listed(world)
    assert {(f.task_id, f.kind) for f in found.findings} == {(task, kind) for kind, task in tasks.items()}
    by_kind = {finding.kind: finding for finding in found.findings}
    scene = world.scenes[8]
    y, x = np.nonzero(scene.masks[0][1])
    lost = by_kind["overlooked"]
    assert (lost.label, lost.x0, lost.y0) == (scene.masks[0][0], x.min(), y.min())
    assert lost.reason.startswith(f"{lost.label} at the ") or " in the middle" in lost.reason
    assert "nobody drew" in lost.reason
    swapped = by_kind["swapped"]
    assert swapped.region == "r0"
    assert f"{swapped.label} " in swapped.reason
    assert f"may be {swapped.other_label}" in swapped.reason
    assert "overlap by" in by_kind["placed"].reason
    assert found.about["finished"] == 12


def test_nobody_is_judged_by_a_model_that_was_trained_on_him(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    project = world.open()
    first = ModelRegistry(world.settings.data_dir).current(world.project_id)
    assert world.worker().look(world.project_id, force_round=True) is not None
    second = trained_round(project.db)
    assert second is not None
    assert second.model_version != first
    info = ModelRegistry(world.settings.data_dir).info(world.project_id, second.model_version)
    assert set(tasks.values()) <= set(info.manifest["train_tasks"])
    table = listed(world)
    assert {f.judged_by for f in table.findings if f.task_id in tasks.values()} == {first}
    # the test split is judged by the newest; what both were trained on is judged by none
    assert set(table.about["judged"]) == {first, second.model_version}
    assert table.about["unjudged"] == 8 - table.about["judged"][second.model_version]


def test_a_model_that_learnt_a_task_is_passed_over(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    project, registry = world.open(), ModelRegistry(world.settings.data_dir)
    version = str(registry.current(world.project_id))
    (judge,) = all_judges(registry, project.paths, {}, project.id, project.config.wanted, version)
    task = tasks["placed"]
    assert choose_judges([judge], [task], {}) == {task: judge}
    # somebody took the annotation back after the training, and the model looked at the task
    assert choose_judges([replace(judge, knows=judge.knows | {task})], [task], {}) == {}
    # versions started from each other know what the older one learnt
    info = registry.info(world.project_id, version)
    later = replace(
        info, version="later", manifest={**info.manifest, "start": version, "train_tasks": [task]}
    )
    known = _known_tasks(later, {version: info, "later": later})
    assert known == {task, *info.manifest["train_tasks"]}
    assert _known_tasks(later, {"later": later}) is None


def test_an_unchanged_project_is_not_judged_again(make_world: Callable[..., World], monkeypatch: Any) -> None:
    world, _ = played(make_world)
    calls: list[int] = []
    monkeypatch.setattr(
        "sync.mistakes.find.measure_task",
        lambda *a, **k: calls.append(1) or (_ for _ in ()).throw(ValueError),
    )
    monkeypatch.setattr("sync.mistakes.find.read_judged", lambda path: calls.append(2))
    worker = world.worker()
    look_once = worker.look(world.project_id)
    assert look_once is not None
    assert calls == []
    # a second look by the same worker does not even ask for the digests
    monkeypatch.setattr("sync.mistakes.find.finished_digests", lambda db: calls.append(3))
    assert worker.look(world.project_id) is not None
    assert calls == []


def test_one_new_annotation_judges_one_task(make_world: Callable[..., World], monkeypatch: Any) -> None:
    world, _ = played(make_world)
    from sync.mistakes import find

    asked: list[int] = []
    plain = find.measure_task

    def counted(*args: Any, **more: Any) -> Any:
        asked.append(1)
        return plain(*args, **more)

    monkeypatch.setattr(find, "measure_task", counted)
    annotate(world, 12, world.scenes[12].masks[:2])
    look(world)
    assert asked == [1]
    assert world.tasks[12] in {f.task_id for f in listed(world).findings}


def test_the_tab_shows_the_reasons_once(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    look(world)
    look(world)
    views = world.studio.views(world.project_id)
    assert [view.title for view in views] == ["Default", TITLE]
    lines = world.studio.task_values(world.project_id, LINE_FIELD)
    assert set(lines.values()) == set(tasks.values())
    assert all(0.25 <= float(line.split()[0]) <= 1 for line in lines)
    calls: list[str] = []
    world.studio.before_call = calls.append
    worker = world.worker()
    worker.look(world.project_id)
    calls.clear()
    worker.look(world.project_id)
    assert not {"set_task_data", "views", "task", "create_view", "change_view"} & set(calls)


def test_lines_do_not_start_a_training_and_change_no_annotation(make_world: Callable[..., World]) -> None:
    world, _ = played(make_world, retrain_after=5)
    project = world.open()
    before = finished_digests(project.db)
    record = trained_round(project.db)
    look(world)
    look(world)
    assert finished_digests(project.db) == before
    after = trained_round(project.db)
    assert record is not None
    assert after is not None
    assert after.number == record.number


def test_what_a_person_changed_or_found_right_leaves_the_list(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    look(world)
    # found right: the mark is in the data of the task
    swapped = tasks["swapped"]
    digest = finished_digests(world.open().db)[swapped]
    data = world.studio.task(swapped).data
    world.studio.set_task_data(swapped, {**data, OK_FIELD: mark_of(digest)})
    # changed, although not as the model would have it
    lost = world.studio.task(tasks["overlooked"])
    world.studio.update_annotation(lost.annotations[0].id, lost.annotations[0].result[:1])
    look(world)
    assert {f.task_id for f in listed(world).findings} == {tasks["placed"]}
    look(world)
    assert set(world.studio.task_values(world.project_id, LINE_FIELD).values()) == {tasks["placed"]}


def test_off_takes_tab_and_lines_away(make_world: Callable[..., World]) -> None:
    world, _ = played(make_world)
    look(world)
    world.settings = world.settings.model_copy(update={"mistakes": "off"})
    look(world)
    assert world.studio.task_values(world.project_id, LINE_FIELD) == {}
    assert TITLE not in {view.title for view in world.studio.views(world.project_id)}


def test_a_tab_of_a_person_stays(make_world: Callable[..., World]) -> None:
    world, _ = played(make_world)
    mine = {"title": TITLE, "filters": {"conjunction": "and", "items": []}, "ordering": ["tasks:id"]}
    own = world.studio.create_view(world.project_id, mine)
    annotate(world, 12, world.scenes[12].masks[:2])
    look(world)
    assert [view.title for view in world.studio.views(world.project_id)].count(TITLE) == 2
    world.settings = world.settings.model_copy(update={"mistakes": "off"})
    look(world)
    assert [view for view in world.studio.views(world.project_id) if view.title == TITLE] == [own]


def test_a_second_tab_of_ours_goes(make_world: Callable[..., World]) -> None:
    world, _ = played(make_world)
    (ours,) = (view for view in world.studio.views(world.project_id) if view.title == TITLE)
    world.studio.create_view(world.project_id, ours.data)  # as after an answer that got lost
    annotate(world, 12, world.scenes[12].masks[:2])
    look(world)
    assert [view.id for view in world.studio.views(world.project_id) if view.title == TITLE] == [ours.id]


def test_off_takes_an_empty_tab_away(make_world: Callable[..., World]) -> None:
    world, tasks = played(make_world)
    look(world)
    for task in tasks.values():
        (annotation,) = world.studio.task(task).annotations
        world.studio.update_annotation(annotation.id, world.scenes[world.tasks.index(task)].result())
    look(world)
    look(world)
    assert world.studio.task_values(world.project_id, LINE_FIELD) == {}
    assert TITLE in {view.title for view in world.studio.views(world.project_id)}
    world.settings = world.settings.model_copy(update={"mistakes": "off"})
    look(world)
    assert TITLE not in {view.title for view in world.studio.views(world.project_id)}


def test_a_kill_anywhere_is_followed_by_a_rerun(make_world: Callable[..., World]) -> None:
    world = make_world(14, early_s=0, train_clicks=False)
    world.label(*range(8))
    look(world)
    tasks = planted(world)

    class Killed(BaseException):
        pass

    stops = 0
    for stop in range(12):
        seen = 0

        def checkpoint(place: str, stop: int = stop) -> None:
            nonlocal seen
            if place.startswith("mistakes."):
                seen += 1
                if seen > stop:
                    raise Killed

        try:
            world.worker(checkpoint).look(world.project_id)
        except Killed:
            stops += 1
    assert stops >= 3
    look(world)
    look(world)
    assert set(world.studio.task_values(world.project_id, LINE_FIELD).values()) == set(tasks.values())
    assert [v.title for v in world.studio.views(world.project_id)].count(TITLE) == 1


def test_duplicates_and_leaks(make_world: Callable[..., World], tmp_path: Any) -> None:
    world = make_world(10, early_s=0, train_clicks=False)
    world.label(*range(8))
    look(world)
    project = world.open()
    record = trained_round(project.db)
    assert record is not None
    from sync.rounds.task_queries import test_split

    tested = min(test_split(project.db, record.split))
    trained = min(set(world.tasks[:8]) - test_split(project.db, record.split))
    image = world.studio.task(tested).data["image"]
    copies = world.studio.import_tasks(
        world.project_id, [{"image": image}, {"image": world.studio.task(trained).data["image"]}]
    )
    world.studio.create_annotation(copies[0], world.studio.task(tested).annotations[0].result)
    world.studio.create_annotation(copies[1], world.studio.task(trained).annotations[0].result[:1])
    look(world)
    found = {(f.task_id, f.kind): f for f in listed(world).findings if f.other_task >= 0}
    # the copy of the tested one is trained on from now on
    assert found[tested, "leak"].other_task == copies[0]
    assert found[copies[1], "duplicate"].other_task == trained
    assert "labels differ" in found[copies[1], "duplicate"].reason
    assert found[copies[1], "duplicate"].score > found[tested, "leak"].score
    assert len(found) == 2


def test_a_near_duplicate_counts_less_than_an_exact_one(make_world: Callable[..., World]) -> None:
    world = make_world(10, early_s=0, train_clicks=False)
    world.label(*range(8))
    look(world)
    project = world.open()
    record = trained_round(project.db)
    assert record is not None
    from sync.rounds.task_queries import test_split

    trained = min(set(world.tasks[:8]) - test_split(project.db, record.split))
    (same,) = world.studio.import_tasks(
        world.project_id, [{"image": world.studio.task(trained).data["image"]}]
    )
    brighter = world.images / "brighter.png"
    Image.fromarray(world.scenes[world.tasks.index(trained)].image + 1).save(brighter)
    world.studio.upload_images(world.project_id, [brighter])
    (near,) = set(world.studio.task_ids(world.project_id)) - {*world.tasks, same}
    for task in (same, near):
        world.studio.create_annotation(task, world.studio.task(trained).annotations[0].result[:1])
    look(world)
    found = {f.task_id: f for f in listed(world).findings if f.other_task >= 0}
    assert (found[same].kind, found[near].kind) == ("duplicate", "near duplicate")
    assert found[near].other_task == trained
    assert found[near].score == pytest.approx(0.7 * found[same].score)


def test_the_list_needs_nothing_but_the_files(make_world: Callable[..., World]) -> None:
    world, _ = played(make_world)
    project = world.open()
    record = trained_round(project.db)
    assert record is not None
    path = project.paths.mistakes(record.model_version)
    before = read_mistakes(path)
    assert before is not None
    for file in project.paths.mistakes_folder.glob("*.parquet"):
        file.unlink()
    again = step(find_mistakes, replace(project, memo={}), record=record)
    assert again.findings == before.findings
