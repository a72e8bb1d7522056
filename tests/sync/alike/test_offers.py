"""More like this: what is offered, that it comes once, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import BadInput, StudioError
from ml_backend.instances import Rle
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.learners.alike.sam3_concepts import Concept
from ml_backend.learners.weak.proposals import ClassicalMasks
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.alike.ask import Ask
from sync.alike.find import chosen_tasks
from sync.alike.push import alike_prefix
from sync.alike.step import Offered
from sync.exchange.export import export_project
from sync.rounds.round_records import trained_round
from sync.store.tables import ProjectRecord
from sync.worker.more_like_this import more_like_this
from tests.sync.conftest import CONFIG_XML, Scene, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
CONFIG = parse_label_config(CONFIG_XML)


@pytest.fixture(autouse=True)
def _few_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for pictures with three objects, and quick."""
    monkeypatch.setattr("sync.alike.looks._CANDIDATES", 20)


def offer(world: World, *, dry_run: bool = False, **ask: Any) -> Offered:
    return more_like_this(
        world.settings, world.store, world.studio, world.project_id, Ask(**ask), dry_run=dry_run
    )


def shown(world: World) -> dict[int, list[tuple[str, np.ndarray[Any, Any], float]]]:
    """Label, mask and score of what each unfinished task shows."""
    found = {}
    for task in world.tasks:
        rows = world.studio.predictions(task)
        assert len(rows) <= 1
        if rows:
            assert rows[0].model_version == world.studio.project(world.project_id).model_version
            parsed = parse_annotation(rows[0].result, CONFIG)
            found[task] = [(r.label, decode_rle(r.rle), r.score or 0.0) for r in parsed.regions]
    return found


def regions_of(world: World, task: int) -> list[Any]:
    return [annotation.result for annotation in world.studio.task(task).annotations]


def right(world: World, task: int, label: str, mask: np.ndarray[Any, Any]) -> bool:
    scene = world.scenes[world.tasks.index(task)]
    return any(
        name == label and (mask & true).sum() / (mask | true).sum() >= 0.5 for name, true in scene.masks
    )


def test_masks_like_those_of_one_finished_task_are_offered_once(make_world: MakeWorld) -> None:
    world = make_world(10)
    world.label(0)
    drawn = {name for name, _ in world.scenes[0].masks}
    assert drawn == {"disc", "bar"}
    first = offer(world, most=8)
    assert first.examples == {label: sum(n == label for n, _ in world.scenes[0].masks) for label in drawn}
    assert first.version.startswith(alike_prefix(world.project_id))
    assert first.looked_at == first.sent == 9
    seen = shown(world)
    assert set(seen) == set(world.tasks[1:])
    masks = [(task, *mask) for task, rows in seen.items() for mask in rows]
    assert len(masks) == sum(first.masks.values()) == len(first.offers)
    good = [right(world, task, label, mask) for task, label, mask, _ in masks]
    assert np.mean(good) >= 0.8
    for task, rows in seen.items():
        assert all(0 <= score <= 1 for _, _, score in rows), task
        for i, (_, one, _) in enumerate(rows):
            assert not any(
                (one & other).sum() > 0.7 * min(one.sum(), other.sum()) for _, other, _ in rows[:i]
            )
    again = offer(world, most=8)
    assert (again.version, again.sent) == (first.version, 0)
    assert world.studio.prediction_versions(world.project_id) == {first.version: 9}


def test_the_limits_hold(make_world: MakeWorld) -> None:
    world = make_world(8)
    world.label(0)
    found = offer(world, labels=("disc",), most=4, per_picture=1, pictures=5)
    assert set(found.masks) == {"disc"}
    assert found.masks["disc"] <= 4
    assert len({one.task for one in found.offers}) == len(found.offers)
    assert found.looked_at == 5
    scores = [one.score for one in found.offers]
    assert scores == sorted(scores, reverse=True)


def test_a_dry_run_sends_nothing(make_world: MakeWorld) -> None:
    world = make_world(5)
    world.label(0)
    found = offer(world, dry_run=True)
    assert found.offers
    assert (found.version, found.sent) == ("", 0)
    assert not world.studio.prediction_versions(world.project_id)


def test_finished_tasks_are_examples_and_get_no_offer(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(6)
    world.label(0)
    before = offer(world)
    opened = world.open()
    out = tmp_path / "out"
    report = step(export_project, opened, out, format="coco")
    assert sum(report.annotations.values()) == 3, "offers are in no export"
    world.label(1, 2)
    after = offer(world)
    assert after.version != before.version
    assert sum(after.examples.values()) == 9
    assert not {one.task for one in after.offers} & set(world.tasks[:3])
    assert list(world.studio.prediction_versions(world.project_id)) == [after.version]
    one_of_them = offer(world, tasks=(world.tasks[1],), dry_run=True)
    assert sum(one_of_them.examples.values()) == 3


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        ({"most": 0}, "k"),
        ({"most": 1001}, "k"),
        ({"per_picture": -1}, "per_picture"),
        ({"pictures": 0}, "pictures"),
        ({"labels": ("ring",)}, "label"),
        ({"source": "magic"}, "source"),
        ({"tasks": (999_999,)}, "task"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    make_world: MakeWorld, ask: dict[str, Any], field: str
) -> None:
    world = make_world(4)
    world.label(0)
    with pytest.raises(BadInput) as error:
        offer(world, **ask)
    assert error.value.field == field
    assert not world.studio.prediction_versions(world.project_id)


def test_tasks_that_teach_nothing_are_refused(make_world: MakeWorld) -> None:
    world = make_world(4)
    with pytest.raises(BadInput, match="nobody has drawn"):
        offer(world)
    world.label(0)
    world.studio.create_annotation(world.tasks[1], [])
    with pytest.raises(BadInput, match="is not finished"):
        offer(world, tasks=(world.tasks[2],))
    with pytest.raises(BadInput, match="nothing with an outline"):
        offer(world, tasks=(world.tasks[1],))


def test_predictions_of_others_stay(make_world: MakeWorld) -> None:
    from sync.studio.protocol import PredictionRow

    world = make_world(4)
    world.label(0)
    world.studio.import_predictions(world.project_id, [PredictionRow(world.tasks[1], [], 0.5, "theirs")])
    with pytest.raises(BadInput, match="theirs") as error:
        offer(world)
    assert error.value.field == "project"
    assert world.studio.prediction_versions(world.project_id) == {"theirs": 1}


def test_the_first_round_replaces_what_was_offered(make_world: MakeWorld) -> None:
    world = make_world(8, question_budget=0, min_finished=3, more_like_this=5)
    world.label(0)
    look = world.worker().look(world.project_id)
    assert look is not None
    assert look.error == ""
    (version,) = world.studio.prediction_versions(world.project_id)
    assert version.startswith(alike_prefix(world.project_id))
    drawn = regions_of(world, world.tasks[0])
    world.label(1, 2)
    look = world.worker().look(world.project_id)
    assert look is not None
    assert look.error == ""
    record = trained_round(world.open().db)
    assert record is not None
    (version,) = world.studio.prediction_versions(world.project_id)
    assert version.startswith(record.model_version)
    assert regions_of(world, world.tasks[0]) == drawn
    assert not world.open().paths.alike.exists()
    with pytest.raises(BadInput, match="has a model"):
        offer(world)


def test_the_worker_offers_when_something_changed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(6, more_like_this=5)
    worker = world.worker()
    asked: list[int] = []
    real = world.studio.import_predictions
    monkeypatch.setattr(
        world.studio,
        "import_predictions",
        lambda project, rows: (asked.append(len(rows)), real(project, rows))[1],
    )
    assert worker.look(world.project_id) is not None
    assert not asked, "nothing was drawn yet"
    world.label(0)
    for _ in range(2):
        assert worker.look(world.project_id) is not None
    assert asked == [5]
    world.label(1)
    assert worker.look(world.project_id) is not None
    assert asked == [5, 4]


@pytest.mark.parametrize(
    "place", ["alike.example", "alike.picture", "alike.chunk", "alike.switch", "alike.retire"]
)
def test_a_kill_anywhere_doubles_nothing(make_world: MakeWorld, place: str) -> None:
    world = make_world(5, more_like_this=5, push_rows=2)
    world.label(0)
    offer(world, most=3)

    class Killed(BaseException):
        pass

    count = 0

    def stop(at: str) -> None:
        nonlocal count
        count += at == place
        if at == place and count == (2 if place == "alike.chunk" else 1):
            raise Killed

    with pytest.raises(Killed):
        world.worker(stop).look(world.project_id)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    (version,) = world.studio.prediction_versions(world.project_id)
    assert world.studio.project(world.project_id).model_version == version
    twin = make_world(5, name="twin", more_like_this=5)
    twin.label(0)
    assert twin.worker().look(twin.project_id) is not None
    assert [len(rows) for rows in shown(world).values()] == [len(rows) for rows in shown(twin).values()]


def test_a_picture_that_cannot_be_read_is_left_out(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(5)
    world.label(0)
    sorted(world.images.iterdir())[2].write_bytes(b"no picture")
    found = offer(world)
    assert found.looked_at == 3
    assert found.sent == 3


def test_concepts_of_sam_3_take_the_place_of_proposals(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that finds every disc exactly, once it is shown where one is."""
    world = make_world(4)
    world.label(0)
    asked: list[Concept] = []

    class Finder:
        def __init__(self, folder: Path, *, device: str) -> None:
            assert folder == Path("somewhere")

        def __call__(self, image: Any, concepts: list[Concept]) -> list[tuple[list[Rle], Any]]:
            asked.extend(concepts)
            (scene,) = (scene for scene in world.scenes if np.array_equal(scene.image, image))
            found = []
            for concept in concepts:
                masks = [mask for label, mask in scene.masks if label == concept.name == "disc"]
                masks = masks if concept.box is not None else []
                found.append(([encode_mask(mask) for mask in masks], np.full(len(masks), 0.9, np.float32)))
            return found

    monkeypatch.setattr("ml_backend.learners.alike.sam3_concepts.Sam3Concepts", Finder)
    plain = offer(world, dry_run=True)
    assert not asked
    found = offer(world, concepts="somewhere")
    assert [concept.name for concept in asked] == ["disc", "bar"] * 3
    with_disc = {one.task for one in plain.offers if one.label == "disc"}
    assert sum(concept.box is not None for concept in asked if concept.name == "disc") == len(with_disc) > 0
    exact = [
        any(np.array_equal(decode_rle(one.rle), mask) for _, mask in scene_of(world, one.task).masks)
        for one in found.offers
        if one.label == "disc" and one.prior == pytest.approx(0.9)
    ]
    assert exact
    assert all(exact)
    true = sum(label == "disc" for task in with_disc for label, _ in scene_of(world, task).masks)
    assert len(exact) == true


def scene_of(world: World, task: int) -> Scene:
    return world.scenes[world.tasks.index(task)]


def test_concepts_from_nowhere_are_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(3)
    world.label(0)
    with pytest.raises(BadInput) as error:
        offer(world, concepts=str(tmp_path / "none"))
    assert error.value.field == "concepts"
    assert not world.studio.prediction_versions(world.project_id)


def test_a_label_that_was_last_drawn_long_ago_has_examples_too(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many finished pictures only some are looked at."""
    monkeypatch.setattr("sync.alike.find._EXAMPLE_PICTURES", 2)
    world = make_world(8)
    for number in range(4):
        label = "bar" if number == 0 else "disc"
        mine = [item for item in world.scenes[number].result() if item["value"]["brushlabels"] == [label]]
        assert mine, "each picture shows what is drawn on it"
        world.studio.create_annotation(world.tasks[number], mine)
    found = offer(world, labels=("bar",), dry_run=True)
    assert found.examples["bar"] > 0
    both = offer(world, dry_run=True)
    assert set(both.examples) == {"disc", "bar"}
    assert all(both.examples.values())
    of_newest = sum(label == "disc" for label, _ in world.scenes[3].masks)
    assert both.examples["disc"] == of_newest
    named = offer(world, tasks=tuple(world.tasks[:4]), dry_run=True)
    assert named.examples["disc"] > of_newest, "who names tasks gets all of them"


def test_a_look_that_failed_after_its_pull_offers_at_the_next(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(6, more_like_this=5)
    worker = world.worker()
    world.label(0)
    assert worker.look(world.project_id) is not None
    before = world.studio.prediction_versions(world.project_id)
    world.label(1)
    with monkeypatch.context() as broken:

        def fails(*_: object, **__: object) -> None:
            raise StudioError("Label Studio answered 502", field="project")

        broken.setattr("sync.worker.look.note_people", fails)
        failed = worker.look(world.project_id)
        assert failed is None or "502" in failed.error
    assert worker.look(world.project_id) is not None
    after = world.studio.prediction_versions(world.project_id)
    assert list(after) != list(before)
    assert list(after.values()) == [4]


def test_damaged_proposals_are_made_again(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.label(0)
    first = offer(world, dry_run=True)
    kept = sorted(world.open().paths.alike.rglob("*.npz"))
    assert len(kept) == 3
    whole = [path.read_bytes() for path in kept]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        for path, data in zip(kept, whole, strict=True):
            damaged = bytearray(data)
            damaged[int(share * len(data)) :: 61] = b"\xff" * len(damaged[int(share * len(data)) :: 61])
            path.write_bytes(damaged)
        assert offer(world, dry_run=True).offers == first.offers


def test_what_is_like_masks_that_somebody_took_back_is_shown_no_longer(make_world: MakeWorld) -> None:
    world = make_world(5, more_like_this=5)
    worker = world.worker()
    assert worker.look(world.project_id) is not None
    world.label(0)
    assert worker.look(world.project_id) is not None
    assert any(shown(world).values())
    (drawn,) = world.studio.task(world.tasks[0]).annotations
    world.studio.delete_annotation(drawn.id)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    assert not world.studio.prediction_versions(world.project_id)


def test_a_project_that_had_an_order_of_tasks_keeps_it(make_world: MakeWorld) -> None:
    """Offers, and their end, leave the places of all tasks as they are."""
    world = make_world(7, more_like_this=3, order_start=True)
    worker = world.worker()
    assert worker.look(world.project_id) is not None
    (start,) = world.studio.prediction_versions(world.project_id)
    assert not start.startswith(alike_prefix(world.project_id))

    def places() -> dict[int, float | None]:
        return {task: row.score for task in world.tasks[1:] for row in world.studio.predictions(task)}

    before = places()
    assert len(set(before.values())) == 6
    world.label(0)
    assert worker.look(world.project_id) is not None
    (version,) = world.studio.prediction_versions(world.project_id)
    assert version.startswith(alike_prefix(world.project_id))
    assert any(shown(world).values())
    assert places() == pytest.approx(before)
    (drawn,) = world.studio.task(world.tasks[0]).annotations
    world.studio.delete_annotation(drawn.id)
    assert worker.look(world.project_id) is not None
    assert not any(shown(world).values())
    assert places() == pytest.approx(before)


def test_proposals_of_other_weights_are_not_mixed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept proposals are those of the weights that are asked now, whichever setting names them."""
    world = make_world(3)
    world.label(0)
    folder = world.open().paths.alike
    for weights in ("a", "b", "a"):
        made = replace(ClassicalMasks(20), name=f"segmenter {weights}")
        with monkeypatch.context() as now:
            now.setattr("sync.alike.looks.get_source", lambda name, most, made=made: made)
            offer(world, source="segmenter", dry_run=True)
    assert sorted(len(list(kept.iterdir())) for kept in folder.iterdir()) == [3, 3]


def test_a_segmenter_that_makes_no_masks_is_refused_by_the_option_that_named_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", "classical")
    world = make_world(3)
    world.label(0)
    with pytest.raises(BadInput, match="no automatic masks") as error:
        offer(world, source="segmenter")
    assert error.value.field == "source"
    assert "proposals=" not in error.value.hint


def test_a_paused_project_gets_no_offers(make_world: MakeWorld) -> None:
    world = make_world(4, more_like_this=3)
    world.label(0)
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).paused = "all"
    with pytest.raises(BadInput, match="is paused"):
        offer(world)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.paused == "all"
    assert not world.studio.prediction_versions(world.project_id)
    assert offer(world, dry_run=True).offers, "to look does no harm"


def test_masks_drawn_on_a_picture_that_was_replaced_are_no_examples(make_world: MakeWorld) -> None:
    """The picture of a finished task has another size by now: nothing can be learned from what is there."""
    world = make_world(5)
    world.label(0, 1)
    path = sorted(world.images.iterdir())[0]
    before = path.read_bytes()
    try:
        Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(path)
        found = offer(world, dry_run=True)
    finally:
        path.write_bytes(before)
    assert sum(found.examples.values()) == 3


def test_which_pictures_are_looked_at_is_drawn_by_lot(make_world: MakeWorld) -> None:
    world = make_world(12)
    world.label(0)
    offer(world, dry_run=True)
    db = world.open().db
    orders = [
        chosen_tasks(db, world.settings.model_copy(update={"seed": seed}), (), 4) for seed in (0, 0, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert not any(order == sorted(order) for order in orders)
    served = world.tasks[9], world.tasks[3]
    assert chosen_tasks(db, world.settings, served, 4)[:2] == list(served), (
        "an order that is there goes first"
    )
    assert world.tasks[0] not in chosen_tasks(db, world.settings, served, 99)
