"""Pools that a model gone wrong or an odd project makes: NaN, nothing, one mask, all masks equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.instances import Instances
from ml_backend.masks.rle import empty_rle
from sync.rounds.round_records import trained_round
from sync.store.tables import RoundRecord
from tests.sync.conftest import HW, World
from tests.sync.steps import step
from tests.sync.tiny_learner import TinyPredictor

MakeWorld = Callable[..., World]
Spoil = Callable[[Instances], Instances]
POLICIES: dict[str, dict[str, Any]] = {
    "certified": {},
    "original": {"min_size": 1, "sample": 1},  # by itself it leaves clusters under 15 alone
}
each_policy = pytest.mark.parametrize("policy", POLICIES)


def _world(make_world: MakeWorld, n_images: int, policy: str) -> World:
    return make_world(n_images, policy=policy, policy_options=POLICIES[policy])


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spoil], None]:
    """Let the model give something else than it found."""

    def use(change: Spoil) -> None:
        plain = TinyPredictor._one
        monkeypatch.setattr(TinyPredictor, "_one", lambda self, image: change(plain(self, image)))

    return use


def _round(world: World) -> RoundRecord:
    """The clustered round after its whole review; six tasks are finished first."""
    world.label(*range(6))
    return _reviewed(world)


def _reviewed(world: World) -> RoundRecord:
    for _ in range(40):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        assert report.review is not None
        if report.review.done:
            break
        world.answer_all()
    else:
        raise AssertionError("the review never ended")
    record = step(trained_round, world.open())
    assert record is not None
    return record


def _verdicts(world: World, record: RoundRecord) -> list[int]:
    rows = read_verdicts(world.open().paths.round(record.number)).rows
    return [row.verdict for row in rows.values()]


def _changed(found: Instances, **columns: Any) -> Instances:
    named = {name: columns.get(name, getattr(found, name)) for name in Instances.__slots__}
    return Instances(**named)


def _partly_not_finite(found: Instances) -> Instances:
    embedding, score = found.embedding.copy(), found.score.copy()
    embedding[0, 1] = np.nan
    score[1] = np.inf
    return _changed(found, embedding=embedding, score=score)


@each_policy
def test_what_the_model_gives_without_finite_numbers_is_left_out_and_logged(
    make_world: MakeWorld, spoil: Callable[[Spoil], None], caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    spoil(_partly_not_finite)
    world = _world(make_world, 10, policy)
    record = _round(world)
    assert caplog.text.count("2 instances left out, not finite") == 6  # of each picture that it looked at
    assert sum(record.figures["cluster"]["pool"].values()) == 4
    assert "dropped" not in record.figures["cluster"]
    assert _verdicts(world, record) == [1] * 4


@each_policy
def test_pools_of_others_that_hold_such_instances_are_clustered_without_them(
    make_world: MakeWorld, spoil: Callable[[Spoil], None], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, policy: str,
) -> None:  # fmt: skip
    spoil(_partly_not_finite)
    monkeypatch.setattr("sync.rounds.look_tasks.usable_instances", lambda found: found)
    world = _world(make_world, 10, policy)
    record = _round(world)
    figures = record.figures["cluster"]
    assert sum(figures["dropped"].values()) == 8
    assert sum(figures["pool"].values()) == 4
    assert "their embedding or score is not finite" in caplog.text
    assert _verdicts(world, record) == [1] * 4


def test_a_pool_with_no_finite_instance_asks_nothing(
    make_world: MakeWorld, spoil: Callable[[Spoil], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(lambda found: _changed(found, embedding=np.full_like(found.embedding, np.nan)))
    monkeypatch.setattr("sync.rounds.look_tasks.usable_instances", lambda found: found)
    world = make_world(8)
    record = _round(world)
    assert sum(record.figures["cluster"]["pool"].values()) == 0
    assert sum(record.figures["cluster"]["dropped"].values()) == 6
    assert record.figures["review"]["asked"] == 0


def _first_mask_empty(found: Instances) -> Instances:
    return _changed(found, rle=[empty_rle(HW), *found.rle[1:]])


@each_policy
@pytest.mark.parametrize("old_pool", [False, True])
def test_empty_masks_stop_neither_push_nor_review(
    make_world: MakeWorld, spoil: Callable[[Spoil], None], monkeypatch: pytest.MonkeyPatch, policy: str,
    old_pool: bool,
) -> None:  # fmt: skip
    spoil(_first_mask_empty)
    if old_pool:  # written by a version that let them in
        monkeypatch.setattr("ml_backend.artifacts.pool_writer.without_empty_masks", lambda found: found)
        monkeypatch.setattr("sync.rounds.look_tasks.without_empty_masks", lambda found: found)
    world = _world(make_world, 8, policy)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    shown = world.studio._of("predictions", project=world.project_id)
    assert sorted((row["task"], len(row["result"])) for row in shown) == [(t, 2) for t in world.tasks[6:]]
    record = _reviewed(world)
    assert sum(record.figures["cluster"]["pool"].values()) == 4
    assert _verdicts(world, record) == [1] * 4


@each_policy
@pytest.mark.parametrize(
    ("change", "masks"),
    [
        (lambda found: found.take(np.zeros(0, np.intp)), 0),
        (lambda found: found.take(np.arange(1)), 2),
        (
            lambda found: _changed(
                found, embedding=np.ones_like(found.embedding), score=np.full_like(found.score, 0.9)
            ),
            6,
        ),
    ],
    ids=["nothing found", "one mask a picture", "all equal"],
)
def test_small_and_flat_pools_are_reviewed(
    make_world: MakeWorld, spoil: Callable[[Spoil], None], policy: str, change: Spoil, masks: int
) -> None:
    spoil(change)
    world = _world(make_world, 8, policy)
    record = _round(world)
    assert sum(record.figures["cluster"]["pool"].values()) == masks
    assert _verdicts(world, record) == [1] * masks  # all of them are good
