"""Early rounds: shown soon, without questions, and replaced by the whole training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import ModelError
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds.progress import Progress
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_EARLY_AP", "0.2")


def versions(world: World) -> list[Any]:
    return ModelRegistry(world.settings.data_dir).versions(world.project_id)


def shown(world: World) -> dict[str, int]:
    return dict(world.studio.prediction_versions(world.project_id))


def test_an_early_version_is_shown_without_questions_then_replaced(
    make_world: MakeWorld, cut_short: None
) -> None:
    world = make_world(16)
    world.label(*range(6))
    first = world.worker().look(world.project_id)
    assert first is not None
    assert (first.round, first.error, first.review) == (1, "", None)
    (early,) = versions(world)
    assert early.manifest["early"] is True
    assert early.version == first.trained
    assert list(shown(world).values()) == [10]
    assert next(iter(shown(world))).startswith(early.version)
    assert world.review_projects() == {}
    assert ModelRegistry(world.settings.data_dir).current(world.project_id) == early.version
    lines = "\n".join(status_lines(status(world.settings, world.store)))
    assert "early    shown until the whole training is done" in lines

    second = world.worker().look(world.project_id)
    assert second is not None
    assert (second.round, second.error) == (2, "")
    assert second.review is not None
    assert world.review_projects()
    _, whole = versions(world)
    assert "early" not in whole.manifest
    assert whole.manifest["started_from"] == f"version {early.version} (early)"
    assert list(shown(world).values()) == [10]
    assert next(iter(shown(world))).startswith(whole.version)

    third = world.worker().look(world.project_id)
    assert third is not None
    assert (third.round, third.trained) == (2, "")


def test_an_early_version_that_finds_nothing_is_not_shown(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_EARLY_AP", "0.004")
    world = make_world(10)
    world.label(*range(6))
    said: list[str] = []
    worker = world.worker()
    worker._report = lambda project, step, share, text: said.append(text)
    first = worker.look(world.project_id)
    assert first is not None
    assert (first.round, first.trained, first.error) == (None, "", "")
    assert any("no use yet: AP is 0.004 on 2 test images" in text for text in said)
    assert versions(world) == []
    assert shown(world) == {}
    assert not list((world.settings.data_dir / "projects").glob("*/models/.*"))
    second = worker.look(world.project_id)
    assert second is not None
    assert (second.round, second.error) == (2, "")
    assert [info.manifest["started_from"] for info in versions(world)] == ["random start"]
    assert second.review is not None


@pytest.mark.parametrize(
    ("options", "force"), [({"early_s": 0.0}, False), ({}, True)], ids=["switched off", "asked for a round"]
)
def test_the_first_round_may_be_whole(
    make_world: MakeWorld, cut_short: None, options: dict[str, Any], force: bool
) -> None:
    world = make_world(8, **options)
    world.label(*range(6))
    report = world.worker().look(world.project_id, force_round=force)
    assert report is not None
    assert report.review is not None
    assert "early" not in versions(world)[0].manifest


def test_a_training_that_ends_in_time_is_whole(make_world: MakeWorld) -> None:
    world = make_world(8)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.review is not None
    again = world.worker().look(world.project_id)
    assert again is not None
    assert (again.round, len(versions(world))) == (1, 1)


PLACES = ["train.start", "train.publish", "infer.batch", "push.chunk", "push.switch", "push.retire"]


@pytest.mark.parametrize("place", PLACES)
def test_stopped_anywhere_it_goes_on(make_world: MakeWorld, cut_short: None, place: str) -> None:
    """Stopped at every place, in the early and in the whole round, it comes to the same end."""
    world = make_world(10)
    world.label(*range(6))

    class Killed(BaseException):
        pass

    for stop_at in (1, 2):
        left = stop_at

        def checkpoint(here: str) -> None:
            nonlocal left
            left -= here == place
            if here == place and left == 0:
                raise Killed

        worker = world.worker(checkpoint)
        for _ in range(3):
            try:
                report = worker.look(world.project_id)
                assert report is None or report.error == ""
            except Killed:
                break
    world.worker().look(world.project_id)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.round, report.error) == (2, "")
    assert [bool(info.manifest.get("early")) for info in versions(world)] == [True, False]
    assert list(shown(world).values()) == [4]


def test_inference_of_an_early_version_ends_in_time(make_world: MakeWorld, cut_short: None) -> None:
    world = make_world(16, early_s=1e-9, infer_batch=2)
    world.label(*range(6))
    world.worker().look(world.project_id)
    assert list(shown(world).values()) == [2], "the tasks of one batch"
    world.worker().look(world.project_id)
    assert list(shown(world).values()) == [10]


def test_checkpoints_survive_a_kill_and_go_when_the_version_is_published(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(8)
    world.label(*range(6))
    seen: list[list[str]] = []

    def train(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        assert spec.resume is not None
        seen.append(sorted(path.name for path in spec.resume.glob("*")))
        (spec.resume / "events").mkdir(parents=True, exist_ok=True)
        (spec.resume / "events" / "curve").write_text("a point")
        (spec.resume / "part-1" / "events").mkdir(parents=True, exist_ok=True)
        (spec.resume / "part-1" / "events" / "curve").write_text("another")
        (spec.resume / "checkpoint").write_text("half way")
        if len(seen) == 1:
            raise KeyboardInterrupt
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train)
    stale = world.settings.data_dir / "projects" / str(world.project_id) / "models" / ".training-older"
    stale.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        world.worker().look(world.project_id)
    assert not stale.exists()
    world.worker().look(world.project_id)
    assert seen == [[], ["checkpoint", "events", "part-1"]]
    (info,) = versions(world)
    assert (info.folder / "events" / "curve").read_text() == "a point"
    assert (info.folder / "events" / "part-1" / "curve").read_text() == "another"
    assert [path.name for path in stale.parent.iterdir()] == [info.version]


def test_a_training_that_fails_twice_begins_without_its_checkpoint(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(8)
    world.label(*range(6))
    seen: list[bool] = []

    def train(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        assert spec.resume is not None
        seen.append(spec.resume.exists())
        spec.resume.mkdir(exist_ok=True, parents=True)
        raise ModelError("the training process was killed")

    monkeypatch.setattr("sync.rounds.train._train_in_child", train)
    for _ in range(3):
        world.worker().look(world.project_id, force_round=True)
    assert seen == [False, True, False]
