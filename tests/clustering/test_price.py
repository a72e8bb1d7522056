"""Drawn truths, and the price of a promise, on generated pools whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.preview import Case, forecast, generated
from clustering.costs import Costs
from clustering.pool import Pool
from clustering.price import MISFIT, acceptable, chosen_truths, one_play, prediction_interval
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import make_policy
from clustering.truth_draws import SPREADS, Belief, TruthModel, fit_truth, picture_spread
from clustering.verifier import RIDGES, compare_ridges, fit_logistic, make_features

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


def _pictures(shares: list[tuple[int, float]], seed: int = 0) -> ProjectPool:
    """A pool that tells nothing, with lessons on pictures of so many masks and such shares of good ones."""
    rng = np.random.default_rng(seed)

    def masks(n: int) -> Pool:
        score = rng.uniform(0.4, 0.9, n).astype(np.float32)
        return Pool(rng.normal(size=(n, 3)).astype(np.float32), score, score, np.zeros((n, 0), np.float32))

    good = np.concatenate([np.arange(n) < round(share * n) for n, share in shares])
    picture = np.repeat(np.arange(len(shares)), [n for n, _ in shares])
    lessons = Lessons(masks(len(good)), np.zeros(len(good), np.int64), good, picture)
    return ProjectPool([masks(1500)], lessons=lessons)


def _spread_of_shares(model: TruthModel) -> float:
    rng = np.random.default_rng(1)
    return float(np.std([model.draw(rng).mean() for _ in range(150)]))


def test_large_pictures_that_agree_by_luck_do_not_make_a_forecast_sure() -> None:
    # the four large pictures are alike; what pictures can differ by shows on the small ones alone
    few = fit_truth(_pictures([(100, 0.8)] * 4 + [(10, 0.2), (10, 1.0)] * 4), NONE, np.zeros(0), seed=0)
    alone = replace(few, beliefs=[replace(one, between=np.zeros_like(one.between)) for one in few.beliefs])
    assert _spread_of_shares(few) > 1.4 * _spread_of_shares(alone)
    # many pictures that agree leave little doubt
    many = fit_truth(_pictures([(20, 0.8)] * 32), NONE, np.zeros(0), seed=0)
    assert _spread_of_shares(many) < 0.6 * _spread_of_shares(few)


def test_the_ridge_that_predicts_best_counts_most() -> None:
    project = _case(1500).project
    lessons, features = project.lessons, make_features(project)
    assert lessons is not None
    x, y = features.bent(features.lessons), lessons.good.astype(np.float64)
    group = np.unique(lessons.picture, return_inverse=True)[1]
    loss, _ = compare_ridges(x, y, np.zeros(len(y)), group, features.penalty, seed=[0, len(y)])
    best = fit_logistic(x, y, RIDGES[int(np.argmin(loss))] * features.penalty)
    model = fit_truth(project, NONE, np.zeros(0), seed=0)
    heaviest = model.beliefs[int(np.argmax(model.weight))]
    assert np.allclose(heaviest.centre, features.bent(features.columns) @ best, atol=1e-3)


def test_answers_do_not_count_as_pictures() -> None:
    project = _pictures([(30, 0.3), (30, 0.9)] * 10)
    answered = np.arange(700)
    model = fit_truth(project, answered, (answered % 2).astype(float), seed=0)
    assert min(float(belief.spread @ SPREADS) for belief in model.beliefs) > 1.2


def test_a_few_answers_shift_what_the_detector_says() -> None:
    project = ProjectPool(_case(600, "weak").project.pools)
    answered = np.arange(7)

    def share(yes: float) -> float:
        model = fit_truth(project, answered, np.full(7, yes), seed=0)
        rng = np.random.default_rng(0)
        return float(np.mean([model.draw(rng)[7:].mean() for _ in range(40)]))

    nothing = fit_truth(project, NONE, np.zeros(0), seed=0)
    rng = np.random.default_rng(0)
    before = float(np.mean([nothing.draw(rng)[7:].mean() for _ in range(40)]))
    assert share(0.0) + 0.05 < before < share(1.0) - 0.05


def test_the_spread_between_pictures_is_learnt_and_usual_where_there_are_none() -> None:
    rng = np.random.default_rng(0)
    picture = np.repeat(np.arange(60), 20)

    def expected(spread: float) -> float:
        own = spread * rng.standard_normal(60)[picture]
        yes = (rng.random(len(picture)) < 1.0 / (1.0 + np.exp(-own))).astype(float)
        return float(picture_spread(np.zeros(len(picture)), yes, picture) @ SPREADS)

    assert expected(0.0) < 0.3
    assert expected(0.8) == pytest.approx(0.8, abs=0.25)
    assert expected(2.0) == pytest.approx(2.0, abs=0.5)
    nothing = picture_spread(np.zeros(0), np.zeros(0), NONE)
    assert nothing.sum() == pytest.approx(1.0)
    assert nothing @ SPREADS == pytest.approx(np.sqrt(2.0 / np.pi), abs=0.1)  # mean of a half-normal number
    # the numbers of the pictures say nothing
    yes = rng.random(len(picture)) < 0.7
    same = [
        picture_spread(np.full(1200, 0.8), yes.astype(float), numbers) for numbers in (picture, 7 - picture)
    ]
    assert np.allclose(same[0], same[1])


def test_what_can_be_accepted_is_the_longest_run_that_keeps_the_promise() -> None:
    good = np.array([True, True, False, True, False, False])
    first = np.arange(6)
    assert acceptable(good, first, 0.75) == 4
    assert acceptable(good, first, 0.8) == 2
    assert acceptable(good, first, 0.5) == 6
    assert acceptable(good, first[::-1], 0.75) == 0
    assert acceptable(good[:0], first[:0], 0.75) == 0


def _shifting(n: int = 400) -> TruthModel:
    """All masks good with one chance, which is anything: log-odds from -3 to 3."""
    belief = Belief(
        np.linspace(1.0, -1.0, n),
        np.full((n, 1), 1.5, np.float32),
        np.zeros((n, 0), np.float32),
        np.eye(15)[0],
    )
    return TruthModel([belief], np.ones(1), 0.0, 0.0, np.full(n, np.nan))


def test_truths_to_be_played_stand_for_equal_shares_the_worst_first() -> None:
    model = _shifting()
    order = np.arange(400)
    every = np.sort([acceptable(model.draw(np.random.default_rng(i)), order, 0.8) for i in range(3000)])
    truths = chosen_truths(model, 8, purity=0.8, seed=1, draws=3000)
    chosen = [acceptable(truth, order, 0.8) for truth in truths]
    assert chosen == sorted(chosen)
    expected = (np.arange(8) + 0.5) / 8
    assert (np.searchsorted(every, chosen, side="left") / len(every) - 0.03 < expected).all()
    assert (expected < np.searchsorted(every, chosen, side="right") / len(every) + 0.03).all()
    first, again, other = (chosen_truths(model, 8, purity=0.8, seed=seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert any((one != two).any() for one, two in zip(first, other, strict=True))


def test_without_a_promise_truths_differ_by_how_many_masks_are_good() -> None:
    counts = [int(truth.sum()) for truth in chosen_truths(_shifting(), 5, purity=None, seed=0, draws=3)]
    assert counts == sorted(counts)
    assert len(counts) == 5


def test_answered_masks_cost_nothing_and_a_finished_review_costs_nothing_more() -> None:
    case = _case()
    policy, costs = make_policy("certified", purity=0.85), Costs()
    whole = one_play(policy, case.project, case.good, seed=1, costs=costs)
    again = one_play(policy, case.project, case.good, seed=1, costs=costs)
    assert whole == again
    assert whole.questions > 0
    assert whole.unseen + whole.verified + whole.lost == case.good.sum()
    nothing = one_play(
        policy, case.project, case.good, seed=1, costs=costs, free=np.ones(len(case.good), bool)
    )
    assert (nothing.questions, nothing.seconds) == (0, 0.0)
    assert nothing.lost == whole.lost
    half = one_play(
        policy, case.project, case.good, seed=1, costs=costs, free=np.arange(len(case.good)) % 2 == 0
    )
    assert 0.3 * whole.questions < half.questions < 0.7 * whole.questions


def test_unseen_is_what_nobody_looked_at() -> None:
    case = _case()
    every = one_play(make_policy("verify-all"), case.project, case.good, seed=1, costs=Costs())
    assert (every.unseen, every.verified) == (0, case.good.sum())


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
    # one play in eight that certifies nothing is within the interval
    unlucky = prediction_interval([100.0] * 7 + [5000.0])
    assert unlucky.middle == pytest.approx(100.0)
    assert unlucky.high == pytest.approx(5000.0 * np.exp(MISFIT), rel=0.01)
    lucky = prediction_interval([5000.0] * 7 + [100.0])
    assert lucky.low == pytest.approx(100.0 * np.exp(-MISFIT), rel=0.02)
    with pytest.raises(ValueError, match="at least two"):
        prediction_interval([1.0])


@pytest.mark.slow
def test_the_forecast_holds_on_a_pool_of_known_truth() -> None:
    """``python -m bench.preview`` counts how often; here one pool that it does not report."""
    row = forecast(_case(600), 0.85, plays=4, seed=3)
    assert row["questions"][1] <= row["real_questions"] <= row["questions"][2]
    assert row["minutes"][1] <= row["real_minutes"] <= row["minutes"][2]
