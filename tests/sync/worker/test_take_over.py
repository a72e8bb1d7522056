"""Models of other projects on a project's open tasks: shown, asked about, and never trained by that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput
from ml_backend.label_studio.config_builder import build_label_config
from sync.rounds.given_rounds import find_model
from sync.rounds.known_masks import load_known_masks
from sync.rounds.round_records import current_round
from sync.rounds.task_queries import finished_digests
from sync.rounds.test_split import repartition
from sync.store.lease import hold_project
from sync.store.tables import RoundRecord
from sync.worker.take_over import take_over
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _record(world: World) -> RoundRecord:
    record = current_round(world.open().db)
    assert record is not None
    return record


def _trained(world: World) -> str:
    world.label(*range(6))
    world.worker().look(world.project_id)
    return _record(world).model_version


def _other_project(world: World, labels: tuple[str, ...] = LABELS) -> World:
    """A second project over the same pictures in the same installation."""
    from sync.rounds.registration import register_project

    other = object.__new__(World)
    other.__dict__.update(world.__dict__)
    other.project_id = world.studio.create_project("More shapes", build_label_config(labels)).id
    world.studio.upload_images(other.project_id, sorted(world.images.iterdir()))
    other.tasks = sorted(world.studio.task_ids(other.project_id))
    register_project(world.settings, world.store, world.studio, other.project_id)
    return other


def _take_over(world: World, name: str, **options: object):  # type: ignore[no-untyped-def]
    model = find_model(world.settings, name) if name else None
    return take_over(
        world.settings,
        world.store,
        world.studio,
        world.project_id,
        model,
        **options,  # type: ignore[arg-type]
    )


def _shown(world: World) -> dict[int, list[str]]:
    version = world.studio.project(world.project_id).model_version
    return {
        task: [item["value"]["brushlabels"][0] for item in row.result]
        for task in sorted(world.studio.task_ids(world.project_id))
        for row in world.studio.predictions(task)
        if row.model_version == version
    }


def test_a_model_of_another_project_looks_at_all_open_tasks(make_world: MakeWorld) -> None:
    first = make_world(12)
    version = _trained(first)
    other = _other_project(first, ("round", "long"))
    named = {"disc": "round", "bar": "long"}
    report = _take_over(other, version, named=named)
    assert (report.error, report.round) == ("", 1)
    assert report.review is not None
    assert report.review.new > 0
    shown = _shown(other)
    assert set(shown) == set(other.tasks)
    for number, scene in enumerate(other.scenes):
        assert sorted(shown[other.tasks[number]]) == sorted(named[label] for label, _ in scene.masks)
    record = _record(other)
    assert (record.origin, record.split) == ("adopted", 0)
    info = ModelRegistry(other.settings.data_dir).info(other.project_id, record.model_version)
    assert info.manifest["adopted"]["version"] == version
    before = len(other.studio.prediction_versions(other.project_id))
    again = _take_over(other, version, named=named)
    assert (again.round, again.pushed, _record(other).number) == (1, None, 1)
    assert len(other.studio.prediction_versions(other.project_id)) == before
    # the worker goes on with it: nothing is trained before enough is finished
    look = other.worker().look(other.project_id)
    assert look is not None
    assert (look.trained, look.error) == ("", "")


def test_its_known_masks_and_the_next_training_owe_it_nothing(make_world: MakeWorld) -> None:
    first = make_world(12)
    version = _trained(first)
    other = _other_project(first)
    _trained(other)
    _take_over(other, version)
    record = _record(other)
    assert (record.number, record.origin) == (2, "adopted")
    assert step(load_known_masks, other.open(), record, LABELS) is None, "it may know these pictures"
    other.label(6)
    look = other.worker().look(other.project_id)
    assert look is not None
    assert look.trained == "", "one newly finished task is no reason to train"
    look = other.worker().look(other.project_id, force_round=True)
    assert look is not None
    assert (look.error, _record(other).origin, _record(other).number) == ("", "trained", 3)
    from sync.rounds.round_records import load_snapshot

    start = load_snapshot(other.open().paths, 3)["start"]
    assert start.startswith(f"gs{other.project_id}-r1-"), "from its own model of the same test split"


def test_an_older_version_keeps_its_own_test_split(make_world: MakeWorld) -> None:
    world = make_world(16, test_fraction=0.3)
    world.label(*range(10))
    world.worker().look(world.project_id)
    old = _record(world).model_version
    project = world.open()
    before = step(load_known_masks, project, _record(world), LABELS)
    step(repartition, project, sorted(finished_digests(project.db)))
    world.worker().look(world.project_id, force_round=True)
    _take_over(world, old)
    record = _record(world)
    assert (record.number, record.origin, record.split) == (3, "adopted", 1)
    known = step(load_known_masks, world.open(), record, LABELS)
    assert known is not None
    assert before is not None
    assert known.pictures.tolist() == before.pictures.tolist()


def test_the_present_model_looks_at_new_tasks(make_world: MakeWorld) -> None:
    world = make_world(12)
    version = _trained(world)
    world.studio.upload_images(world.project_id, sorted(world.images.iterdir())[:2])
    report = _take_over(world, "")
    assert (report.round, report.trained) == (1, "")
    assert report.pushed is not None
    assert len(_shown(world)) == 6 + 2
    assert _take_over(world, version).pushed is None


def test_what_cannot_be_taken_over_is_said_and_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(8)
    with pytest.raises(BadInput, match="has no model yet"):
        _take_over(world, "")
    version = _trained(world)
    shown = _shown(world)
    other = _other_project(world, ("cat",))
    with pytest.raises(Exception, match="none of the model's labels"):
        _take_over(other, version)
    with (
        pytest.raises(BadInput, match="works on project"),
        hold_project(world.store, world.settings, world.project_id),
    ):
        _take_over(world, version)
    assert _shown(world) == shown
    look = other.worker().look(other.project_id)
    assert look is not None
    assert look.error == "", "a model that does not fit is not tried again"
