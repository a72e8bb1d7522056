"""Drawn truths, and the price of a promise, on generated pools whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.preview import Case, forecast, generated
from clustering.costs import Costs
from clustering.price import MISFIT, one_play, prediction_interval
from clustering.project_pool import ProjectPool
from clustering.search import make_policy
from clustering.truth_draws import fit_truth

NONE = np.zeros(0, np.int64)


def _case(n: int = 600, kind: str = "strong") -> Case:
    return generated(kind, n, tests=12, seed=3)


def test_drawn_truths_fit_what_is_known() -> None:
    case = _case(1500)
    item = np.arange(0, 300, 3)
    model = fit_truth(case.project, item, case.good[item].astype(float), seed=0)
    rng = np.random.default_rng(0)
    draws = np.stack([model.draw(rng) for _ in range(30)])
    assert (draws[:, item] == case.good[item]).all()
    share = draws.mean(axis=1)
    assert share.min() < case.good.mean() < share.max()
    assert 0.005 < share.std() < 0.1
    # what is drawn often is what is good: the draws know which masks are good
    free = np.setdiff1d(np.arange(len(case.good)), item)
    chance = draws[:, free].mean(axis=0)
    assert chance[case.good[free]].mean() > chance[~case.good[free]].mean() + 0.5


def test_draws_say_that_little_is_known_when_it_is() -> None:
    case = _case(1500, "weak")
    lessons = case.project.lessons
    assert lessons is not None

    def spread(project: ProjectPool) -> float:
        model = fit_truth(project, NONE, np.zeros(0), seed=0)
        rng = np.random.default_rng(0)
        return float(np.std([model.draw(rng).mean() for _ in range(40)]))

    alone = ProjectPool(case.project.pools)
    assert spread(alone) > 2 * spread(case.project)
    same = fit_truth(case.project, NONE, np.zeros(0), seed=0)
    first, second = (same.draw(np.random.default_rng(5)) for _ in range(2))
    assert (first == second).all()


def test_answered_masks_cost_nothing_and_a_finished_review_costs_nothing_more() -> None:
    case = _case()
    policy, costs = make_policy("certified", purity=0.85), Costs()
    whole = one_play(policy, case.project, case.good, seed=1, costs=costs)
    again = one_play(policy, case.project, case.good, seed=1, costs=costs)
    assert whole == again
    assert whole.questions > 0
    nothing = one_play(
        policy, case.project, case.good, seed=1, costs=costs, free=np.ones(len(case.good), bool)
    )
    assert (nothing.questions, nothing.seconds) == (0, 0.0)
    assert nothing.lost == whole.lost
    half = one_play(
        policy, case.project, case.good, seed=1, costs=costs, free=np.arange(len(case.good)) % 2 == 0
    )
    assert 0.3 * whole.questions < half.questions < 0.7 * whole.questions


def test_a_sample_is_scaled_by_the_looks_at_single_masks_alone() -> None:
    case = _case()
    policy = make_policy("certified", purity=0.85)
    whole = one_play(policy, case.project, case.good, seed=1, costs=Costs())
    tenfold = one_play(policy, case.project, case.good, seed=1, costs=Costs(), larger=10.0)
    assert whole.questions < tenfold.questions < 10 * whole.questions
    assert tenfold.unseen == 10 * whole.unseen
    assert tenfold.verified == 10 * whole.verified


def test_intervals_of_plays() -> None:
    found = prediction_interval([100.0, 120.0, 140.0, 110.0])
    assert found.low < 100.0 < found.middle < 140.0 < found.high
    narrow = prediction_interval([100.0] * 10)
    assert narrow.middle == pytest.approx(100.0)
    assert narrow.high / narrow.low == pytest.approx(np.exp(2 * 1.833 * MISFIT), rel=0.03)
    assert prediction_interval([0.0, 0.0, 0.0]).low == 0.0
    assert prediction_interval([90.0, 100.0], most=100.0).high == 100.0
    with pytest.raises(ValueError, match="at least two"):
        prediction_interval([1.0])


@pytest.mark.slow
def test_the_forecast_holds_on_a_pool_of_known_truth() -> None:
    """``python -m bench.preview`` counts how often; here one pool that it does not report."""
    row = forecast(_case(900), 0.85, plays=6, seed=3)
    assert row["questions"][1] <= row["real_questions"] <= row["questions"][2]
    assert row["minutes"][1] <= row["real_minutes"] <= row["minutes"][2]
