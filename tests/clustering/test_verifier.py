"""The verifier: better than the detector, calibrated, and sound where it knows nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.verifier import fit_logistic, fit_verifier, make_features
from tests.clustering.search_pools import flat_pool, known_pool


def _rows(pool: Pool, rows: npt.NDArray[np.int64]) -> Pool:
    return Pool(pool.embedding[rows], pool.score[rows], pool.quality[rows], pool.extras[rows])


def _loss(p: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    p = np.clip(p.astype(float), 0.01, 0.99)
    return float(-np.where(truth, np.log(p), np.log(1 - p)).mean())


def test_verifier_beats_the_detector_and_is_calibrated() -> None:
    _, pool, truth = known_pool(1500)
    rng = np.random.default_rng(0)
    item = rng.choice(1500, 300, replace=False)
    predicted = fit_verifier(make_features(ProjectPool.single(pool)), item, truth[item], seed=0).p_yes
    rest = np.setdiff1d(np.arange(1500), item)
    assert _loss(predicted[rest], truth[rest]) < 0.9 * _loss(pool.prior[rest], truth[rest])
    for low, high in ((0.0, 0.2), (0.8, 1.0)):
        inside = rest[(predicted[rest] >= low) & (predicted[rest] < high)]
        assert truth[inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.07)


def test_verifier_without_answers_is_the_detector() -> None:
    _, pool, _ = known_pool(400)
    features = make_features(ProjectPool.single(pool))
    none = np.zeros(0, np.int64)
    np.testing.assert_allclose(
        fit_verifier(features, none, none, seed=0).p_yes, np.clip(pool.prior, 0.02, 0.98), atol=1e-5
    )
    one_kind = fit_verifier(features, np.arange(12), np.zeros(12), seed=0).p_yes
    assert (one_kind <= np.clip(pool.prior, 0.02, 0.98) + 1e-6).all()


def test_verifier_copes_with_constant_columns() -> None:
    _, pool, truth = flat_pool(200, good=0.5)
    item = np.arange(0, 200, 4)
    for some in (
        pool,
        Pool(np.zeros((200, 0), np.float32), pool.score, pool.quality, np.ones((200, 2), np.float32)),
    ):
        features = make_features(ProjectPool.single(some))
        assert np.isfinite(fit_verifier(features, item, truth[item], seed=0).p_yes).all()


def test_lessons_teach_as_answers_do() -> None:
    _, pool, truth = known_pool(1500)
    rows = np.random.default_rng(1).permutation(1500)
    known, rest = rows[:300], rows[300:]
    others, mine = _rows(pool, known), _rows(pool, rest)
    lessons = Lessons(others, np.zeros(300, np.int64), truth[known], np.arange(300) // 4)
    features = make_features(ProjectPool([mine], lessons=lessons))
    none = np.zeros(0, np.int64)
    taught = fit_verifier(features, none, none, seed=0, good=lessons.good, picture=lessons.picture)
    assert _loss(taught.p_yes, truth[rest]) < 0.9 * _loss(mine.prior, truth[rest])
    assert taught.p_lessons.shape == (300,)


def test_a_lesson_is_judged_without_the_lessons_of_its_own_picture() -> None:
    """Pictures whose masks are alike and whose truth is a coin: nothing can be foretold of a picture."""
    rng = np.random.default_rng(2)
    pictures, each = 60, 8
    k = pictures * each
    coin = np.repeat(rng.random(pictures) < 0.5, each)
    alike = np.repeat(rng.standard_normal((pictures, 12)), each, axis=0).astype(np.float32)
    half = np.full(k, 0.7, np.float32)
    others = Pool(alike, half, half, np.zeros((k, 0), np.float32))
    pool = Pool(
        rng.standard_normal((100, 12)).astype(np.float32),
        half[:100],
        half[:100],
        np.zeros((100, 0), np.float32),
    )
    by_picture = Lessons(others, np.zeros(k, np.int64), coin, np.repeat(np.arange(pictures), each))
    mixed_up = replace(by_picture, picture=np.arange(k))
    none, found = np.zeros(0, np.int64), []
    for lessons in (by_picture, mixed_up):
        features = make_features(ProjectPool([pool], lessons=lessons))
        p = fit_verifier(features, none, none, seed=0, good=lessons.good, picture=lessons.picture).p_lessons
        found.append(float(stats.spearmanr(p, coin).statistic))
    assert found[0] < 0.15  # held out
    assert found[1] > found[0] + 0.2  # as if each mask had a picture of its own: it knows its neighbours


def test_an_answer_about_the_mask_before_moves_its_successor() -> None:
    _, pool, truth = known_pool(400)
    features = make_features(ProjectPool.single(pool))
    item = np.arange(0, 200)
    plain = fit_verifier(features, item, truth[item], seed=0).p_yes
    likely_as_not = 200 + np.argsort(np.abs(plain[200:] - 0.5))[:2]
    one, other = likely_as_not.tolist()
    hinted = fit_verifier(
        features, item, truth[item], seed=0, hint_item=likely_as_not, hint_yes=[1.0, 0.0]
    ).p_yes
    assert hinted[one] > plain[one] + 0.2
    assert hinted[other] < plain[other] - 0.2
    # the others learn from it as from two more answers
    rest = np.setdiff1d(np.arange(400), likely_as_not)
    assert np.median(np.abs(hinted - plain)[rest]) < 0.05


def test_the_label_counts() -> None:
    """Two labels that look the same, one of them good: the offset of the label tells."""
    _, pool, _ = flat_pool(200)
    project = ProjectPool([_rows(pool, np.arange(100)), _rows(pool, np.arange(100, 200))])
    item = np.concatenate([np.arange(0, 30), np.arange(100, 130)])
    p = fit_verifier(make_features(project), item, item < 100, seed=0).p_yes
    assert p[:100].mean() > 0.8
    assert p[100:].mean() < 0.2


def test_logistic_regression_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -2.0, 0.5, 0.0]))).astype(float)
    theirs = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    np.testing.assert_allclose(fit_logistic(x, y, np.full(4, 2.0)), theirs, atol=1e-4)
