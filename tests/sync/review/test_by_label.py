"""Status says of every label what was asked, what is left, and why no more is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sync.projects.control import pause
from sync.report.history_lines import history_lines
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.by_label import REASONS
from sync.rounds.due import TrainingWait, training_wait, wait_text
from sync.rounds.few_pictures import few_pictures_text
from sync.rounds.history import history
from sync.rounds.round_records import trained_round
from tests.sync.conftest import CONFIG_XML, World

MakeWorld = Callable[..., World]


def _look(world: World) -> Any:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return report


def _labels(world: World) -> dict[str, dict[str, Any]]:
    record = trained_round(world.open().db)
    assert record is not None
    return {row["label"]: row for row in record.figures["review"]["by_label"]}


def _lines(world: World) -> str:
    return "\n".join(status_lines(status(world.settings, world.store)))


def _to_the_end(world: World) -> Any:
    for _ in range(30):
        report = _look(world)
        if report.review.done:
            return report
        world.answer_all()
    raise AssertionError("the review never ended")


def test_every_label_is_accounted_for(make_world: MakeWorld) -> None:
    config = CONFIG_XML.replace('<Label value="bar"', '<Label value="never" /><Label value="bar"')
    world = make_world(20, config=config, review_form="single")
    world.label(*range(6))
    report = _look(world)
    found = _labels(world)
    assert set(found) == {"disc", "never", "bar"}
    assert found["never"] | {"reason": ""} == {
        **dict.fromkeys(found["never"], 0),
        "label": "never",
        "why": "no masks",
        "reason": "",
    }
    assert sum(row["open"] for row in found.values()) == report.review.open > 0
    assert {row["why"] for row in found.values() if row["open"]} == {"open"}
    assert "never: never asked about; no more is asked: the model found none of it" in _lines(world)

    report = _to_the_end(world)
    found = _labels(world)
    for row in found.values():
        assert row["accepted"] + row["rejected"] + row["left"] == row["masks"]
        assert row["why"] in {"decided", "not worth it", "no masks"}
    assert sum(row["asked"] for row in found.values()) == report.review.asked
    assert sum(row["accepted"] for row in found.values()) == report.review.accepted
    assert sum(row["open"] for row in found.values()) == 0


def test_a_used_up_budget_and_a_pause_are_named(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=3, review_form="single")
    world.label(*range(6))
    _look(world)
    pause(world.settings, world.store, world.project_id)
    world.answer_all()
    _look(world)
    assert "paused" in {row["why"] for row in _labels(world).values()}
    text = _lines(world)
    assert "no more is asked: asking is paused" in text
    assert "paused: no new questions are asked, open ones may be answered" in text
    assert f"`groundswell project resume {world.project_id}`" in text
    unpaused = make_world(20, question_budget=3, review_form="single", name="unpaused")
    unpaused.label(*range(6))
    _look(unpaused)
    unpaused.answer_all()
    _look(unpaused)
    found = _labels(unpaused)
    assert "budget" in {row["why"] for row in found.values()}
    assert "(question_budget)" in _lines(unpaused)


def test_one_label_waits_for_another(make_world: MakeWorld) -> None:
    world = make_world(20, question_batch=1, review_form="single")
    world.label(*range(6))
    _look(world)
    found = _labels(world)
    assert sorted(row["why"] for row in found.values()) == ["open", "others first"]
    (waiting,) = [row for row in found.values() if row["why"] == "others first"]
    assert "1 questions are open at most" in waiting["reason"]
    assert set(REASONS) >= {row["why"] for row in found.values()}


def test_status_says_how_many_tasks_the_next_training_waits_for(make_world: MakeWorld) -> None:
    world = make_world(12, early_s=0.0)
    world.label(0, 1, 2)
    _look(world)
    text = "3 of 5 finished tasks until the first training, then one for every 20 more"
    assert text in _lines(world)
    (project,) = status(world.settings, world.store)["projects"]
    assert project["next_training"] == {
        "is_first": True, "have": 3, "need": 5, "then": 20, "reason": "", "text": text
    }  # fmt: skip
    world.label(3, 4, 5)
    _look(world)
    world.label(6, 7)
    _look(world)
    assert "2 of 20 newly finished or changed tasks until the next training" in _lines(world)
    own = world.settings.model_copy(update={"retrain_after": 2})
    opened = world.open()
    wait = training_wait(opened.db, opened.config, own, opened.paths, {})
    assert wait.reason
    assert wait_text(wait) == f"a training is due: {wait.reason}"
    assert wait_text(TrainingWait(True, 0, 5, 20, "")).startswith("0 of 5")


@pytest.mark.parametrize(
    ("pictures", "text"),
    [(3, "too few pictures (n=3) to tell"), (10, ""), (0, "too few pictures (n=0) to tell")],
)
def test_a_figure_on_few_pictures_is_called_so(pictures: int, text: str) -> None:
    assert few_pictures_text(pictures) == text


def test_status_and_history_say_when_the_test_split_is_too_small(make_world: MakeWorld) -> None:
    world = make_world(8, early_s=0.0)
    world.label(*range(6))
    _look(world)
    said = "too few pictures (n=2) to tell"
    assert said in _lines(world)
    assert any(said in line for line in history_lines(history(world.open().db, world.settings)))
