"""The crowd model against crowd-kit, known truth and degenerate workers."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.crowd import Answers, fit_crowd, next_workers
from tests.clustering.crowd.played_workers import answers_of, played


def test_agrees_with_crowd_kit() -> None:
    pandas = pytest.importorskip("pandas")
    aggregation = pytest.importorskip("crowdkit.aggregation")
    answers, _ = played(items=200, seed=1)
    frame = pandas.DataFrame(
        {"task": answers.item, "worker": answers.worker, "label": answers.yes.astype(int)}
    )
    theirs = aggregation.DawidSkene(n_iter=300).fit(frame).probas_[1].sort_index().to_numpy()
    # crowd-kit credits workers with no answers beforehand, so ours gets next to none
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
    # the model is as certain as it is right
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
