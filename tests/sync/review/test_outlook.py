"""What people read about the questions that are left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clustering.answers import Forecast
from sync.review.answers import review_owner
from sync.review.outlook import outlook_text, tell_outlook
from sync.review.review_project import find_review_projects
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
