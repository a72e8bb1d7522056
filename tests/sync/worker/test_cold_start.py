"""Cold start: predictions before any label, and the first training as soon as there are enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput
from ml_backend.label_studio.config_builder import build_label_config
from sync.projects.rebuild import rebuild
from sync.rounds.history import history
from sync.rounds.known_masks import load_known_masks
from sync.rounds.registration import register_project
from sync.rounds.round_records import current_round, load_snapshot
from sync.store.tables import RoundRecord
from tests.sync import tiny_learner
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
COLOURS = {"disc": [220, 60, 60], "bar": [60, 220, 60]}
COLD = {"cold_start": tiny_learner.COLD_NAME, "cold_start_options": {"colours": COLOURS}}


def _record(world: World) -> RoundRecord:
    record = current_round(world.open().db)
    assert record is not None
    return record


def _shown(world: World) -> dict[int, list[str]]:
    """Labels shown on each task, by the version that is shown."""
    version = world.studio.project(world.project_id).model_version
    found: dict[int, list[str]] = {}
    for task in sorted(world.studio.task_ids(world.project_id)):
        for row in world.studio.predictions(task):
            if row.model_version == version:
                found[task] = [item["value"]["brushlabels"][0] for item in row.result]
    return found


def test_every_task_has_predictions_before_any_label(make_world: MakeWorld) -> None:
    world = make_world(8, **COLD)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 1)
    assert report.review is not None
    assert report.review.new > 0, "its masks are asked about as those of any round"
    shown = _shown(world)
    assert set(shown) == set(world.tasks)
    for number, scene in enumerate(world.scenes):
        assert sorted(shown[world.tasks[number]]) == sorted(label for label, _ in scene.masks)
    record = _record(world)
    assert (record.origin, record.split) == ("cold", 0)
    project = world.open()
    assert step(load_known_masks, project, record, LABELS) is None
    assert history(project.db, world.settings) == []
    again = world.worker().look(world.project_id)
    assert again is not None
    assert (again.trained, again.pushed, again.error) == ("", None, "")


def test_the_first_training_starts_with_enough_labels_and_from_nothing(make_world: MakeWorld) -> None:
    world = make_world(16, **COLD)
    worker = world.worker()
    worker.look(world.project_id)
    world.label(0, 1, 2, 3)
    worker.look(world.project_id)
    assert _record(world).number == 1
    world.label(4)
    report = worker.look(world.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 2)
    record = _record(world)
    assert (record.origin, record.split) == ("trained", 1)
    snapshot = load_snapshot(world.open().paths, 2)
    assert snapshot["start"] == ""
    assert len(snapshot["train"]) + len(snapshot["test"]) == 5
    versions = world.studio.prediction_versions(world.project_id)
    assert list(versions) == [record.pushed], "the cold predictions are gone"
    world.label(5)
    report = worker.look(world.project_id)
    assert report is not None
    assert (report.round, report.trained) == (2, ""), "no second cold start"


def test_asked_for_a_round_it_trains_on_what_there_is(make_world: MakeWorld) -> None:
    world = make_world(8, **COLD)
    worker = world.worker()
    report = worker.look(world.project_id, force_round=True)
    assert report is not None
    assert (report.error, _record(world).origin) == ("", "cold")
    world.label(0, 1)
    report = worker.look(world.project_id, force_round=True)
    assert report is not None
    assert (report.error, report.round, _record(world).origin) == ("", 2, "trained")


def test_other_options_or_labels_make_another_one(make_world: MakeWorld) -> None:
    world = make_world(8, **COLD)
    world.worker().look(world.project_id)
    swapped = {"disc": COLOURS["bar"], "bar": COLOURS["disc"]}
    options = {"cold_start_options": {"colours": swapped}}
    register_project(world.settings, world.store, world.studio, world.project_id, options=options)
    world.worker().look(world.project_id)
    assert _record(world).number == 2
    turned = {"disc": "bar", "bar": "disc"}
    for number, scene in enumerate(world.scenes):
        labels = sorted(turned[label] for label, _ in scene.masks)
        assert sorted(_shown(world)[world.tasks[number]]) == labels
    row = world.studio._db["projects"][str(world.project_id)]
    row["label_config"] = build_label_config(("disc", "bar", "ring"))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.error, _record(world).number) == ("", 3)
    assert load_snapshot(world.open().paths, 3)["labels"] == ["disc", "bar", "ring"]


def test_one_that_fails_keeps_nothing_from_training(make_world: MakeWorld, monkeypatch: Any) -> None:
    world = make_world(8, **COLD)
    monkeypatch.setenv("TINY_FAIL", "1")
    report = world.worker().look(world.project_id)
    assert report is not None
    assert "told to fail" in report.error
    assert world.worker().look(world.project_id).error == "", "tried again later"  # type: ignore[union-attr]
    monkeypatch.delenv("TINY_FAIL")
    world.label(*range(5))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 2)
    assert _record(world).origin == "trained"


def test_it_comes_back_after_a_rebuild(make_world: MakeWorld) -> None:
    world = make_world(8, **COLD)
    world.worker().look(world.project_id)
    before = (_record(world).model_version, _shown(world))
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert report.error == ""
    look = world.worker().look(world.project_id)
    assert look is not None
    assert (look.error, look.trained) == ("", "")
    assert (_record(world).model_version, _shown(world)) == before
    assert len(ModelRegistry(world.settings.data_dir).versions(world.project_id)) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"segmenter": "classical"}, {"segmenter": "classical"}),
        (
            {"segmenter": "classical", "cold_start_options": {"segmenter": "shipped"}},
            {"segmenter": "shipped"},
        ),
        ({"segmenter": "auto"}, {}),
        ({"segmenter": "project"}, {}),
    ],
)
def test_masks_of_everything_come_from_the_segmenter_of_the_project(
    make_world: MakeWorld, options: dict[str, Any], told: dict[str, str]
) -> None:
    given = {"label": "disc", "most": 3, **options.get("cold_start_options", {})}
    world = make_world(2, **{**options, "cold_start": "everything", "cold_start_options": given})
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    assert load_snapshot(world.open().paths, 1)["options"] == {"label": "disc", "most": 3, **told}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"cold_start": "tiny-cold"}, "cold_start.options.colours"),
        ({"cold_start": "no-such"}, "cold_start.learner"),
        ({"cold_start": "everything"}, "cold_start.options.label"),
        ({"cold_start": "everything", "cold_start_options": {"most": 0}}, "cold_start.options.most"),
    ],
)
def test_wrong_options_are_refused_at_once(
    make_world: MakeWorld, options: dict[str, Any], field: str
) -> None:
    world = make_world(4)
    with pytest.raises(BadInput) as caught:
        register_project(world.settings, world.store, world.studio, world.project_id, options=options)
    assert caught.value.field == field
