"""What people read about the questions that are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clustering.answers import AnswerLog, Forecast, PolicyStep, Questions, Stream, verified_labels
from clustering.project_pool import ProjectPool
from clustering.search import POLICIES
from clustering.search._parts import DecisionRows
from sync.review.answers import review_owner
from sync.review.outlook import outlook_text, tell_outlook
from sync.review.review_project import find_review_projects
from sync.rounds.round_records import trained_round
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


@pytest.mark.parametrize(
    ("questions", "seconds", "drawing", "expected"),
    [
        (0, 0.0, 0.0, "Nothing is left to answer in this round."),
        (
            1,
            1.4,
            80.0,
            "About 1 minute of answers are left in this round. They are expected to spare 2 minutes",
        ),
        (
            700,
            330.0,
            24_000.0,
            "About 10 minutes of answers are left in this round. They are expected to spare 7 hours",
        ),
    ],
)
def test_the_text_is_coarse(questions: int, seconds: float, drawing: float, expected: str) -> None:
    assert outlook_text(Forecast(questions, seconds, 1, drawing)).startswith(expected)


def test_a_policy_that_cannot_tell_says_nothing() -> None:
    assert outlook_text(None) == ""


def test_it_is_sent_when_it_changes_and_the_project_is_still_known(make_world: MakeWorld) -> None:
    world = make_world(20, review_form="single")
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    project = world.open()

    def tell(forecast: Forecast) -> bool:
        return step(tell_outlook, project, forecast)

    assert tell(Forecast(100, 50.0, 60, 4800.0))
    assert not tell(Forecast(90, 45.0, 58, 4700.0))  # the same when rounded
    assert tell(Forecast(0, 0.0, 0, 0.0))
    owner = review_owner(project.db, project.settings)
    rows = project.review_studio.projects()
    found = find_review_projects(rows, owner)
    assert found["single"].is_marked
    row = next(row for row in rows if row.id == found["single"].id)
    assert row.description.startswith("Questions of Groundswell. Nothing is left to answer in this round.")


class NeverHasEnough:
    """A policy that asks about one mask and always expects more of further answers."""

    name = "never has enough"

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        n, asked = len(project), np.arange(0 if len(log) else 1)
        questions = Questions(
            item=asked,
            cluster=asked - 1,
            phase=asked,
            stream=np.full(len(asked), Stream.HARVEST, np.int8),
            inclusion=np.ones(len(asked)),
            form=np.zeros(len(asked), np.int8),
            sheet=asked - 1,
        )
        none = DecisionRows(0.95).build()
        label = verified_labels(log, n)
        return PolicyStep(
            questions, none, label, np.full(n, -1), False, forecast=Forecast(40, 20.0, 9, 720.0)
        )


def test_nothing_is_left_once_nobody_may_answer_any_more(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, NeverHasEnough.name, NeverHasEnough)
    world = make_world(8, policy=NeverHasEnough.name)
    world.label(*range(6))
    found = []
    for _ in range(2):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        assert report.review is not None
        assert report.review.forecast is not None
        record = step(trained_round, world.open())
        assert record is not None
        told = record.figures["review"]["forecast"]["questions"]
        (row,) = [r for r in world.studio.projects() if r.id in world.review_projects().values()]
        ends = "Nothing is left to answer" in row.description
        found.append((report.review.done, report.review.forecast.questions, told, ends))
        world.answer_all()
    assert found == [(False, 40, 40, False), (True, 0, 0, True)]
