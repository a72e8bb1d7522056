"""An earlier version serves again when an admin asks for it, until the next training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput
from sync.dashboard.collect import collect_project
from sync.projects.control import pause, resume, serve_version
from sync.rounds.round_records import current_round
from sync.rounds.wanted_version import note_wanted_version, wanted_version
from sync.store.tables import RoundRecord
from sync.worker.look import LookReport
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def look(world: World) -> LookReport:
    report = world.worker().look(world.project_id)
    assert report is not None
    return report


def newest(world: World) -> RoundRecord:
    record = current_round(world.open().db)
    assert record is not None
    return record


def serving(world: World) -> str:
    return ModelRegistry(world.settings.data_dir).current(world.project_id) or ""


@pytest.fixture
def two_rounds(make_world: MakeWorld) -> tuple[World, str, str]:
    """A world after two trainings, and the names of their versions."""
    world = make_world(30, question_budget=0, retrain_after=4)
    world.label(*range(6))
    look(world)
    first = serving(world)
    world.label(*range(6, 10))
    look(world)
    return world, first, serving(world)


def ask(world: World, version: str) -> bool:
    return serve_version(world.settings, world.store, world.project_id, version)


def shown(world: World) -> set[str]:
    """Model versions whose predictions Label Studio holds."""
    names = world.studio.prediction_versions(world.project_id)
    return {name.rpartition(".")[0] for name in names}


def test_it_serves_with_its_own_predictions_and_no_training_replaces_it_at_once(
    two_rounds: tuple[World, str, str],
) -> None:
    world, first, second = two_rounds
    assert first != second
    assert ask(world, first)
    assert serving(world) == second, "the worker does it, not the caller"
    report = look(world)
    assert report.error == ""
    record = newest(world)
    assert (record.number, record.origin) == (3, "adopted")
    assert serving(world) == record.model_version
    assert shown(world) == {record.model_version}
    assert world.studio.project(world.project_id).model_version == record.pushed
    assert wanted_version(world.open().db) == ""
    rows = {
        row.version: row for row in collect_project(world.settings, world.store, world.project_id).versions
    }
    assert rows[record.model_version].of == first
    assert [name for name, row in rows.items() if row.serving] == [record.model_version]
    again = look(world)
    assert (again.trained, newest(world).number) == ("", 3)


def test_the_next_training_starts_from_it_and_serves_then(two_rounds: tuple[World, str, str]) -> None:
    world, first, _ = two_rounds
    ask(world, first)
    look(world)
    adopted = serving(world)
    world.label(10, 11, 12)
    look(world)
    assert serving(world) == adopted, "too few changed tasks for a training"
    world.label(13)
    look(world)
    record = newest(world)
    assert (record.number, record.origin) == (4, "trained")
    assert serving(world) == record.model_version
    info = ModelRegistry(world.settings.data_dir).info(world.project_id, record.model_version)
    assert info.manifest["start"] == adopted


def test_the_newer_one_can_be_taken_again(two_rounds: tuple[World, str, str]) -> None:
    world, first, second = two_rounds
    ask(world, first)
    look(world)
    assert ask(world, second)
    look(world)
    info = ModelRegistry(world.settings.data_dir).info(world.project_id, serving(world))
    assert info.manifest["adopted"]["version"] == second


def test_a_wish_can_be_taken_back_and_a_kill_repeats_nothing(two_rounds: tuple[World, str, str]) -> None:
    world, first, second = two_rounds
    ask(world, first)
    assert not ask(world, second)
    look(world)
    assert (newest(world).number, serving(world)) == (2, second)

    class Killed(BaseException):
        pass

    for place in ("train.start", "infer.batch", "push.switch"):

        def kill(at: str, place: str = place) -> None:
            if at == place:
                raise Killed

        ask(world, first)
        with pytest.raises(Killed):
            world.worker(kill).look(world.project_id)
    look(world)
    assert newest(world).number == 3
    assert shown(world) == {serving(world)}


def test_a_wish_that_was_begun_and_not_yet_forgotten_finds_its_round(
    two_rounds: tuple[World, str, str],
) -> None:
    world, first, _ = two_rounds
    ask(world, first)
    look(world)
    note_wanted_version(world.open().db, first)  # as a kill right before forgetting leaves it
    look(world)
    assert newest(world).number == 3
    assert wanted_version(world.open().db) == ""


def test_a_version_that_is_gone_ends_the_wish_with_an_error(two_rounds: tuple[World, str, str]) -> None:
    world, _, second = two_rounds
    note_wanted_version(world.open().db, "gs2-r9-0123456789")
    report = look(world)
    assert "not there" in report.error
    assert serving(world) == second
    assert look(world).error == ""


def test_a_version_of_another_name_ends_the_wish_with_an_error(two_rounds: tuple[World, str, str]) -> None:
    """Somebody put a model into the folder by hand: no look may fail over it for ever."""
    world, _, second = two_rounds
    registry = ModelRegistry(world.settings.data_dir)
    registry.publish(world.project_id, "by-hand", lambda folder: {"learner": "tiny"}, make_current=False)
    ask(world, "by-hand")
    assert "by-hand" in look(world).error
    assert look(world).error == ""
    assert serving(world) == second


def test_what_cannot_be_asked_is_refused_at_once(two_rounds: tuple[World, str, str]) -> None:
    world, first, _ = two_rounds
    for wrong in ("gs2-r9-0123456789", "../../etc", ""):
        with pytest.raises(BadInput) as caught:
            ask(world, wrong)
        assert caught.value.field == "version"
    with pytest.raises(BadInput):
        serve_version(world.settings, world.store, 999, first)
    pause(world.settings, world.store, world.project_id, "all")
    with pytest.raises(BadInput):
        ask(world, first)
    resume(world.settings, world.store, world.project_id)
    assert ask(world, first)
