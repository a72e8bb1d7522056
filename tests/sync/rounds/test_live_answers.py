"""What the backend answers about a task is what the worker pushed for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.instances import Instances
from ml_backend.label_studio.protocol import TaskIn
from ml_backend.model import GroundswellModel
from ml_backend.services import Services
from sync.rounds.round_records import trained_round
from tests.sync.conftest import World
from tests.sync.tiny_learner import TinyPredictor

MakeWorld = Callable[..., World]


@pytest.fixture
def names_objects_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model finds every object twice: under the other label too, and once more exactly repeated."""
    plain = TinyPredictor._one

    def twice(self: TinyPredictor, image: object) -> Instances:
        found = plain(self, image)
        n = len(found)
        many = found.take(np.tile(np.arange(n), 3))
        many.label[n : 2 * n] = 1 - found.label
        many.score[n : 2 * n] -= 0.2
        return many

    monkeypatch.setattr(TinyPredictor, "_one", twice)


@pytest.mark.usefixtures("names_objects_twice")
@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "original", "policy_options": {"min_size": 1, "sample": 1}},
        {"policy": "certified", "question_batch": 12},
    ],
    ids=["original", "certified"],
)
def test_live_answers_and_pushed_predictions_are_the_same(
    make_world: MakeWorld, policy: dict[str, Any]
) -> None:
    world = make_world(12, push_min_score=0.74, pool_min_score=0.5, **policy)
    world.label(*range(6))
    for _ in range(3):  # some clusters are decided, others are still open
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        world.answer_all(limit=6)
    assert world.worker().look(world.project_id) is not None
    record = trained_round(world.open().db)
    assert record is not None
    verdicts = [v.verdict for v in read_verdicts(world.open().paths.round(record.number)).values()]
    assert {-1, 1} <= set(verdicts)

    tasks = world.tasks[6:]
    pushed = {task: world.studio.predictions(task)[-1] for task in tasks}
    shown = [len(row.result) for row in pushed.values()]
    assert 0 < sum(shown) <= 3 * len(tasks)  # no object twice
    assert any("meta" in item for row in pushed.values() for item in row.result)  # accepted ones are there

    def answers() -> dict[int, dict[str, object]]:
        services = Services.from_settings(world.settings)
        model = GroundswellModel(services, world.project_id)
        data = {t.id: t.data for t in world.studio.tasks(world.project_id)}
        found = model.predict_tasks([TaskIn(task, data[task]) for task in tasks])
        assert not found.errors
        return dict(zip(tasks, found.results, strict=True))  # type: ignore[arg-type]

    expected = {
        task: {"result": list(row.result), "score": row.score, "model_version": row.model_version}
        for task, row in pushed.items()
    }
    assert answers() == expected
    shutil.rmtree(world.open().paths.pool(record.model_version))  # now the model itself is asked
    live = answers()
    assert live == expected
