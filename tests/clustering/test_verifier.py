"""The verifier: better than the detector, calibrated, and sound where it knows nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from clustering.pool import Pool
from clustering.verifier import fit_logistic, fit_verifier, make_features, smooth_over_tree
from tests.clustering.search_pools import flat_pool, known_pool


def test_verifier_beats_the_detector_and_is_calibrated() -> None:
    tree, pool, truth = known_pool(1500)
    rng = np.random.default_rng(0)
    item = rng.choice(1500, 300, replace=False)
    predicted = fit_verifier(make_features(pool), tree, item, truth[item], seed=0)
    rest = np.setdiff1d(np.arange(1500), item)

    def loss(p: npt.NDArray[np.float32]) -> float:
        p = np.clip(p.astype(float), 0.01, 0.99)
        return float(-np.where(truth[rest], np.log(p[rest]), np.log(1 - p[rest])).mean())

    assert loss(predicted) < 0.9 * loss(pool.prior)
    for low, high in ((0.0, 0.2), (0.8, 1.0)):
        inside = rest[(predicted[rest] >= low) & (predicted[rest] < high)]
        assert truth[inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.07)


def test_verifier_without_answers_is_the_detector() -> None:
    tree, pool, _ = known_pool(400)
    features = make_features(pool)
    none = np.zeros(0, np.int64)
    np.testing.assert_allclose(
        fit_verifier(features, tree, none, none, seed=0), np.clip(pool.prior, 0.02, 0.98), atol=1e-5
    )
    one_kind = fit_verifier(features, tree, np.arange(12), np.zeros(12), seed=0)
    assert (one_kind <= np.clip(pool.prior, 0.02, 0.98) + 1e-6).all()


def test_verifier_copes_with_constant_columns() -> None:
    tree, pool, truth = flat_pool(200, good=0.5)
    item = np.arange(0, 200, 4)
    predicted = fit_verifier(make_features(pool), tree, item, truth[item], seed=0)
    assert np.isfinite(predicted).all()
    bare = Pool(np.zeros((200, 0), np.float32), pool.score, pool.quality, np.ones((200, 2), np.float32))
    assert np.isfinite(fit_verifier(make_features(bare), tree, item, truth[item], seed=0)).all()


def test_logistic_regression_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -2.0, 0.5, 0.0]))).astype(float)
    theirs = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    np.testing.assert_allclose(fit_logistic(x, y, np.full(4, 2.0)), theirs, atol=1e-4)


def test_smoothing_over_the_tree() -> None:
    tree, _, _ = known_pool(400)
    children = tree.children(tree.root)
    assert children is not None
    item = np.concatenate([tree.members(child)[:20] for child in children])
    residual = np.where(tree.is_member(children[0], item), 0.4, -0.4)
    smooth = smooth_over_tree(tree, item, residual)
    assert (smooth[tree.members(children[0])] > 0.15).all()
    assert (smooth[tree.members(children[1])] < -0.15).all()
    np.testing.assert_allclose(smooth_over_tree(tree, item, residual, at=item), smooth[item])
    assert (smooth_over_tree(tree, item[:0], residual[:0]) == 0).all()
