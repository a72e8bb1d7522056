"""The crowd model against crowd-kit, known truth and degenerate workers; reports and re-asking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from clustering.crowd.model import Answers, ask_again, fit_crowd, next_workers, verdicts
from clustering.crowd.worker_report import worker_report


def played(
    *,
    items: int = 300,
    skills: tuple[tuple[float, float], ...] = ((0.95, 0.9), (0.9, 0.92), (0.85, 0.8)),
    good_share: float = 0.7,
    seed: int = 0,
) -> tuple[Answers, npt.NDArray[np.bool_]]:
    """Every worker (sensitivity, specificity) answers every item; the truth."""
    rng = np.random.default_rng(seed)
    good = rng.random(items) < good_share
    w = len(skills)
    chance = np.array([np.where(good, se, 1 - sp) for se, sp in skills])
    yes = (rng.random((w, items)) < chance).astype(float)
    return (
        Answers(
            np.tile(np.arange(items), w),
            np.repeat(np.arange(w), items),
            yes.ravel(),
            rng.gamma(8.0, 0.2, w * items) + 0.7,
        ),
        good,
    )


def answers_of(rows: list[tuple[int, int, float]], seconds: float = 2.0) -> Answers:
    table = np.array(rows, float).reshape(-1, 3)
    return Answers(
        table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], np.full(len(table), seconds)
    )


def test_agrees_with_crowd_kit() -> None:
    pandas = pytest.importorskip("pandas")
    aggregation = pytest.importorskip("crowdkit.aggregation")
    answers, _ = played(items=200, seed=1)
    frame = pandas.DataFrame(
        {"task": answers.item, "worker": answers.worker, "label": answers.yes.astype(int)}
    )
    theirs = aggregation.DawidSkene(n_iter=300).fit(frame).probas_[1].sort_index().to_numpy()
    # crowd-kit does not smooth: nearly no pseudo answers
    ours = fit_crowd(answers, one_coin=False, pseudo=(1e-6, 1e-6))
    assert ours.converged
    np.testing.assert_allclose(ours.p_yes, theirs, atol=0.02)


def test_recovers_truth_and_skills() -> None:
    skills = ((0.97, 0.95), (0.9, 0.7), (0.75, 0.9), (0.5, 0.5))
    answers, good = played(items=800, skills=skills, seed=2)
    model = fit_crowd(answers)
    assert ((model.p_yes > 0.5) == good).mean() > 0.95
    np.testing.assert_allclose(model.sensitivity, [se for se, _ in skills], atol=0.06)
    np.testing.assert_allclose(model.specificity, [sp for _, sp in skills], atol=0.08)
    # stated certainty is true certainty
    sure = np.maximum(model.p_yes, 1 - model.p_yes)
    assert ((model.p_yes > 0.5) == good).mean() == pytest.approx(sure.mean(), abs=0.02)


def test_the_detector_settles_what_agrees_with_it() -> None:
    """Worker accuracy 0.9, detector 0.8: one yes is 0.973, one no 0.31 (Bayes' rule)."""
    skilled = [(i, 0, float(i < 2000)) for i in range(4000)]
    gold = np.concatenate([np.ones(2000), np.zeros(2000), [np.nan, np.nan]])
    gold[:200], gold[2000:2200] = 0.0, 1.0  # a tenth of the worker's answers are wrong
    answers = answers_of([*skilled, (4000, 0, 1.0), (4001, 0, 0.0)])
    prior = np.full(4002, 0.8)
    model = fit_crowd(answers, prior=prior, gold=gold)
    assert model.sensitivity[0] == pytest.approx(0.9, abs=0.005)
    np.testing.assert_allclose(model.p_yes[4000:], [0.973, 0.308], atol=0.005)
    ask, expert = next_workers(answers, model, delta=0.05)
    assert ask.tolist() == [4001]
    assert expert.tolist() == []


def test_gold_stays_what_it_is() -> None:
    answers = answers_of([(0, w, 0.0) for w in range(4)] + [(1, w, 1.0) for w in range(4)])
    model = fit_crowd(answers, gold=[1.0, np.nan])
    assert model.p_yes[0] == 1.0
    assert (model.sensitivity < 0.8).all()  # they were wrong about it


def test_one_coin_where_workers_answered_little() -> None:
    answers, good = played(items=6, seed=3)
    model = fit_crowd(answers)
    assert model.one_coin
    np.testing.assert_array_equal(model.sensitivity, model.specificity)
    assert not fit_crowd(played(items=60)[0]).one_coin
    assert ((model.p_yes > 0.5) == good).mean() >= 5 / 6


def test_degenerate_crowds() -> None:
    nothing = fit_crowd(answers_of([]))
    assert len(nothing.item) == 0
    assert nothing.converged
    unsure = fit_crowd(answers_of([(0, 0, np.nan)]), prior=[0.8])
    assert unsure.p_yes == pytest.approx([0.8])
    everyone_yes = fit_crowd(answers_of([(i, w, 1.0) for i in range(20) for w in range(3)]))
    assert (everyone_yes.p_yes > 0.9).all()
    random = np.random.default_rng(0)
    noise = answers_of([(i, w, float(random.random() < 0.5)) for i in range(100) for w in range(4)])
    assert np.isfinite(fit_crowd(noise).p_yes).all()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        Answers(np.zeros(2, int), np.zeros(1, int), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="must be 1"):
        answers_of([(0, 0, 0.5)])
    with pytest.raises(ValueError, match="prior"):
        fit_crowd(answers_of([(0, 0, 1.0)]), prior=[1.0])
    with pytest.raises(ValueError, match="name item 3"):
        fit_crowd(answers_of([(3, 0, 1.0)]), prior=[0.5])
    with pytest.raises(ValueError, match="delta"):
        next_workers(answers_of([]), fit_crowd(answers_of([])), delta=0.7)


def test_adaptive_redundancy_stops_at_the_cap() -> None:
    split = [(0, w, float(w % 2)) for w in range(4)]
    open_item = answers_of(split)
    model = fit_crowd(open_item, prior=[0.5])
    assert next_workers(open_item, model)[0].tolist() == [0]
    capped = answers_of([*split, (0, 4, np.nan)])
    ask, expert = next_workers(capped, fit_crowd(capped, prior=[0.5]), cap=5)
    assert ask.tolist() == []
    assert expert.tolist() == [0]


def test_adaptive_redundancy_is_cheap_and_right() -> None:
    """Played until everything is settled: below two answers each, errors near what delta says."""
    rng = np.random.default_rng(4)
    items, accuracy = 600, 0.92
    prior = rng.beta(6, 2, items).clip(0.05, 0.95)
    good = rng.random(items) < prior
    rows: list[tuple[int, int, float]] = []
    asking = np.flatnonzero(np.ones(items, bool))
    for worker in range(5):
        right = rng.random(len(asking)) < accuracy
        rows += [(int(i), worker, float(good[i] == r)) for i, r in zip(asking, right, strict=True)]
        answers = answers_of(rows)
        model = fit_crowd(answers, prior=prior)
        asking, _ = next_workers(answers, model, delta=0.05)
    item, p_yes = verdicts(answers, prior=prior)
    assert len(rows) < 2.0 * items
    assert ((p_yes > 0.5) != good[item]).mean() < 0.05


def test_careless_worker_is_found_and_careful_ones_are_not() -> None:
    suspicions = np.zeros(4)
    for seed in range(20):
        skills = ((0.95, 0.92), (0.93, 0.95), (0.95, 0.9), (0.6, 0.55))
        answers, good = played(items=150, skills=skills, seed=seed)
        gold = np.where(np.arange(150) % 4 == 0, good.astype(float), np.nan)
        report = worker_report(answers, gold=gold)
        suspicions += report.suspended
        assert (report.sensitivity_interval[:, 0] < report.sensitivity_interval[:, 1]).all()
        assert report.gold_good[0] + report.gold_bad[0] == 38
    assert suspicions[3] >= 18
    assert suspicions[:3].sum() <= 3


def test_nobody_is_suspended_for_a_slip() -> None:
    """Reports are read after every answer: who is right 19 times in 20 is hardly ever suspended by them."""
    careful = guessing = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        good = rng.random(30) < 0.5
        for accuracy in (0.95, 0.5):
            yes = (good == (rng.random(30) < accuracy)).astype(float)
            answers = answers_of([(i, 0, float(value)) for i, value in enumerate(yes)])
            ever = [
                bool(worker_report(answers.take(np.arange(n)), gold=good.astype(float)).fails_gold[0])
                for n in ((1, 2, 3, 5, 8, 12, 20, 30) if accuracy > 0.5 else (30,))
            ]
            careful += accuracy > 0.5 and any(ever)
            guessing += accuracy == 0.5 and any(ever)
    assert careful <= 3
    assert guessing >= 57


def test_who_says_yes_to_everything_is_caught() -> None:
    answers, good = played(items=120, seed=5)
    lazy = Answers(np.arange(120), np.full(120, 9), np.ones(120), np.full(120, 1.2))
    both = Answers(*(np.concatenate([getattr(answers, c), getattr(lazy, c)]) for c in Answers.__slots__))
    gold = np.where(np.arange(120) % 5 == 0, good.astype(float), np.nan)
    report = worker_report(both, gold=gold)
    row = int(np.flatnonzero(report.worker == 9)[0])
    assert report.fails_gold[row]
    assert report.straight_lining[row]
    assert report.longest_run[row] == 120
    assert report.gold_yes[row] == report.gold_good[row] > 0
    assert report.gold_bad[row] > report.gold_no[row] == 0
    assert not report.straight_lining[report.worker != 9].any()


def test_yes_to_masks_that_are_good_is_no_straight_line() -> None:
    answers, _ = played(items=200, good_share=1.0, skills=((1.0, 0.9), (1.0, 0.9), (0.99, 0.9)), seed=6)
    assert not worker_report(answers).straight_lining.any()


def test_speed_and_repeats_are_reported() -> None:
    rows = [(i, 0, 1.0) for i in range(40)]
    hurried = answers_of(rows, seconds=0.2)
    report = worker_report(hurried, floor_s=0.6)
    assert report.too_fast[0]
    assert report.hurried[0] == 1.0
    assert report.seconds[0] == pytest.approx(0.2)
    # the same twenty items twice, half of them answered differently
    repeats = answers_of([(i, 0, 1.0) for i in range(20)] + [(i, 0, float(i % 2)) for i in range(20)])
    report = worker_report(repeats)
    assert report.repeats[0] == 20
    assert report.consistency[0] == pytest.approx(0.5)
    assert report.inconsistent[0]
    unknown = worker_report(Answers(np.array([0]), np.array([0]), np.array([np.nan]), np.array([np.nan])))
    assert np.isnan(unknown.seconds[0])
    assert unknown.unsure[0] == 1
    assert not unknown.suspended[0]


def test_discarding_a_worker_asks_only_what_is_missing() -> None:
    answers, _ = played(items=50, skills=((0.97, 0.97),) * 3, seed=7)
    careful = answers.take(answers.worker < 2)
    # worker 7 alone answered items 50..59, and joined the others on 0..9
    extra = answers_of([(i, 7, 1.0) for i in [*range(50, 60), *range(10)]])
    both = Answers(*(np.concatenate([getattr(careful, c), getattr(extra, c)]) for c in Answers.__slots__))
    kept, again = ask_again(both, [7])
    assert len(kept) == len(careful)
    assert set(range(50, 60)) <= set(again.tolist())
    model = fit_crowd(kept)
    settled = set(model.item[np.abs(model.log_odds) >= np.log(19)].tolist())
    assert not settled & set(again.tolist())
    assert set(again.tolist()) <= set(extra.item.tolist())
    assert ask_again(both, [])[1].tolist() == []
