"""Taking over a project's network: the test keeps its error over many looks, and finds what is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.click_adoption import Projects, adopted_at, looks
from ml_backend.clicks.evaluation.adoption import (
    ERROR,
    MIN_MASKS,
    MIN_PICTURES,
    Adoption,
    allowed_error,
    chance_of,
    decide_adoption,
)
from ml_backend.clicks.evaluation.simulated_clicks import ClickTrace


def traces(clicks: Sequence[Sequence[int]]) -> list[ClickTrace]:
    """One trace per mask, of pictures with these numbers of clicks to IoU 0.85; 0: it never gets there."""
    made = []
    for number, picture in enumerate(clicks):
        for n in picture:
            ious = (0.0,) * (n or 21) + ((0.9,) if n else ())
            made.append(ClickTrace(f"{number}.png", "empty", False, ious, (), ()))
    return made


def decide(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], look: int = 1) -> Adoption:
    return decide_adoption(traces(ours), traces(theirs), look=look)


def test_errors_of_all_looks_stay_within_the_whole() -> None:
    assert sum(allowed_error(k) for k in range(1, 10_000)) == pytest.approx(ERROR, rel=1e-3)
    assert allowed_error(1) > allowed_error(2) > allowed_error(3)
    with pytest.raises(ValueError, match="from 1"):
        allowed_error(0)


def test_a_clear_lead_is_taken_over_and_said_in_words() -> None:
    found = decide([[2, 2, 3]] * 20, [[6, 5, 7]] * 20)
    assert found.use
    assert (found.masks, found.pictures, found.look) == (60, 20, 1)
    assert found.clicks == pytest.approx(7 / 3)
    assert "comparison 1" in found.sentence
    assert "is below the 0.025 allowed" in found.sentence


def test_the_same_lead_is_not_enough_at_a_later_look() -> None:
    ours, theirs = [[2, 3]] * 16 + [[6, 6]] * 2, [[5, 5]] * 18
    assert decide(ours, theirs).use
    later = decide(ours, theirs, look=30)
    assert not later.use
    assert later.chance == decide(ours, theirs).chance


@pytest.mark.parametrize(("pictures", "each"), [(MIN_PICTURES - 1, 10), (12, 2)])
def test_too_little_decides_nothing(pictures: int, each: int) -> None:
    found = decide([[1] * each] * pictures, [[9] * each] * pictures)
    assert not found.use
    assert found.sentence.startswith("too little to decide")
    assert f"{MIN_MASKS} on {MIN_PICTURES} are needed" in found.sentence


def test_ten_pictures_without_a_failure_do_not_rule_failures_out() -> None:
    ours, theirs = [[3, 3, 3]] * 10, [[4, 4, 4]] * 10
    assert not decide(ours, theirs).use  # a lead of one click could hide a picture on which it fails
    assert decide([[1, 1, 1]] * 16, [[6, 6, 6]] * 16).use


def test_failures_count_ten_clicks() -> None:
    found = decide([[0, 3, 15]] * 12, [[5, 5, 5]] * 12)
    assert found.clicks == pytest.approx(23 / 3)
    assert not found.use


def test_chance_is_exact_for_few_pictures_and_sampled_for_many() -> None:
    assert chance_of(np.full(5, -1.0), 0.0) == pytest.approx(1 / 32)  # signs of zeros are free
    few, many = np.full(10, -1.0), np.full(13, -1.0)
    few[:3] = many[:4] = 1.0
    assert chance_of(few, 2.0) == pytest.approx(chance_of(few, 2.0, seed=1))
    assert chance_of(many, 2.0) == pytest.approx(chance_of(many, 2.0, seed=1), abs=0.01)
    assert chance_of(np.ones(20), 5.0) > 0.99


def test_runs_over_other_masks_do_not_pair() -> None:
    with pytest.raises(ValueError, match="same masks"):
        decide([[1, 1]], [[1]])


@pytest.mark.parametrize(
    ("kind", "amount"), [("shift", 0.0), ("mask", 1 / 8), ("picture", 1 / 8), ("picture", 1 / 20)]
)
def test_networks_that_are_no_better_are_seldom_taken_over_in_many_looks(kind: str, amount: float) -> None:
    most = 80
    assert len(looks(MIN_PICTURES, most)) >= 9
    projects = Projects(kind, amount, 400, most, seed=3)
    now = (adopted_at(projects, "now", most, draws=4000, seed=0) <= most).mean()
    before = (adopted_at(projects, "before", most, draws=4000, seed=0) <= most).mean()
    assert now <= ERROR + 0.02  # two standard errors of 400 projects
    assert before > 0.25


def test_a_better_network_is_found() -> None:
    projects = Projects("shift", -3.0, 200, 80, seed=4)
    assert (adopted_at(projects, "now", 80, draws=4000, seed=0) <= 80).mean() > 0.95
