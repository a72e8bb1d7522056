"""The parts of the classifier: logistic regression, calibration, folds, metrics, filters."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import special

from ml_backend.learners.classes.calibration import fit_calibration
from ml_backend.learners.classes.evaluation import (
    area_under_roc,
    average_precision,
    calibration_error,
    evaluate_classes,
)
from ml_backend.learners.classes.folds import fold_of, look_alikes, thumbnail
from ml_backend.learners.classes.logistic import balanced_weights, fit_linear
from ml_backend.learners.classes.patches import PatchFeatures
from ml_backend.learners.classes.predictor import doubts_of
from ml_backend.learners.classes.selection import worse_beyond_chance


@pytest.mark.parametrize("d", [5, 300])  # fewer and more features than pictures
def test_logistic_regression_agrees_with_the_library(d: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, d)) / np.sqrt(d)
    y = np.digitize(x[:, 0] * np.sqrt(d) + 0.3 * rng.normal(size=120), [-0.5, 0.5])
    truth = np.eye(3)[y]
    mine = fit_linear(x, truth, np.ones_like(truth), penalty=0.01, exclusive=True)
    theirs = linear_model.LogisticRegression(C=1 / (0.01 * 120), max_iter=2000).fit(x, y)
    p = special.softmax(mine.logits(x), axis=1)
    assert np.allclose(p, theirs.predict_proba(x), atol=0.02)


def test_balanced_weights_make_labels_count_the_same() -> None:
    truth = np.eye(2)[[0] * 9 + [1]]
    weights = balanced_weights(truth, exclusive=True)
    assert weights[truth[:, 0] == 1, 0].sum() == pytest.approx(weights[truth[:, 1] == 1, 0].sum())
    assert weights[:, 0].sum() == pytest.approx(10)
    weights = balanced_weights(truth[:, 1:], exclusive=False)
    assert weights[9, 0] == pytest.approx(weights[:9, 0].sum()) == pytest.approx(5)


@pytest.mark.parametrize("exclusive", [True, False])
def test_calibration_undoes_balanced_weights_and_overconfidence(exclusive: bool) -> None:
    rng = np.random.default_rng(1)
    true_logit = rng.normal(-2, 1.5, (4000, 1))
    yes = rng.random((4000, 1)) < special.expit(true_logit)
    if exclusive:
        truth = np.concatenate([~yes, yes], axis=1).astype(float)
        given = np.concatenate([np.zeros_like(true_logit), 3 * (true_logit + 2)], axis=1)
    else:
        truth, given = yes.astype(float), 3 * (true_logit + 2)
    calibration = fit_calibration(given, truth, exclusive=exclusive)
    p = calibration.probabilities(given, exclusive=exclusive)[:, -1]
    assert calibration.scale == pytest.approx(1 / 3, rel=0.15)
    assert np.abs(p - special.expit(true_logit[:, 0])).mean() < 0.02


def test_calibration_of_few_pictures_stays_near_what_is_expected() -> None:
    truth = np.eye(2)[[0, 0, 0, 1]]
    calibration = fit_calibration(np.zeros((4, 2)), truth, exclusive=True)
    assert calibration.scale == pytest.approx(1, abs=0.01)
    p = calibration.probabilities(np.zeros((1, 2)), exclusive=True)
    assert 0.6 < p[0, 0] < 0.8
    perfect = fit_calibration(np.where(truth > 0, 5.0, -5.0), truth, exclusive=True)
    assert perfect.scale < 3


def test_look_alikes_stay_in_one_fold() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (8, 40, 50, 3)).astype(np.uint8)
    shots = [
        np.clip(picture * gain + 5, 0, 255).astype(np.uint8) for picture in base for gain in (1.0, 0.8, 0.6)
    ]
    groups = look_alikes(np.stack([thumbnail(shot) for shot in shots]))
    assert np.array_equal(groups.reshape(8, 3), np.repeat(groups[::3], 3).reshape(8, 3))
    assert len(np.unique(groups)) == 8
    truth = np.eye(2)[np.repeat(np.arange(8) % 2, 3)]
    fold = fold_of(groups, truth, folds=4, seed=0)
    assert (fold.reshape(8, 3) == fold[::3, None]).all()
    for number in range(4):
        assert truth[fold == number].sum(axis=0).tolist() == [3, 3]


def test_series_are_joined_across_blocks_of_pictures() -> None:
    thumbnails = np.eye(3, 256, dtype=np.float32)[np.arange(1500) % 3]
    groups = look_alikes(thumbnails)
    assert np.array_equal(groups, groups[np.arange(1500) % 3])
    assert len(np.unique(groups)) == 3


def test_a_long_series_takes_no_memory_for_all_its_pairs() -> None:
    tracemalloc.start()
    try:
        assert not look_alikes(np.eye(1, 256, dtype=np.float32)[np.zeros(5000, int)]).any()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 250e6


def test_even_pictures_are_alike_to_none() -> None:
    grey = thumbnail(np.full((30, 30, 3), 77, np.uint8))
    assert len(np.unique(look_alikes(np.stack([grey, grey])))) == 2


def test_metrics_agree_with_the_library() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    score, truth = np.round(rng.random(200), 1), (rng.random(200) < 0.3).astype(float)
    assert area_under_roc(score, truth) == pytest.approx(metrics.roc_auc_score(truth, score))
    assert average_precision(score, truth) == pytest.approx(metrics.average_precision_score(truth, score))
    assert np.isnan(area_under_roc(score, np.zeros(200)))


def test_calibration_error_of_a_liar_and_of_an_honest_model() -> None:
    p = np.repeat([[0.9, 0.1]], 1000, axis=0)
    truth = np.eye(2)[(np.arange(1000) % 2)]
    assert calibration_error(p, truth, exclusive=True) == pytest.approx(0.4)
    truth = np.eye(2)[(np.arange(1000) % 10 == 0).astype(int)]
    assert calibration_error(p, truth, exclusive=True) == pytest.approx(0, abs=1e-9)


def test_balanced_accuracy_of_always_the_same_label_is_one_half() -> None:
    p = np.repeat([[0.9, 0.1]], 20, axis=0)
    truth = np.eye(2)[[0] * 18 + [1] * 2]
    found = evaluate_classes(p, truth, ("ok", "defect"), exclusive=True).metrics
    assert found["accuracy"][0] == pytest.approx(0.9)
    assert found["balanced_accuracy"][0] == pytest.approx(0.5)
    assert found["AUC"][0] == pytest.approx(0.5)
    assert "precision/defect" not in found  # it was never guessed
    assert found["recall/defect"][0] == 0
    assert evaluate_classes(p[:0], truth[:0], ("ok", "defect"), exclusive=True).metrics == {}


def test_doubts_are_highest_where_labels_are_equally_likely() -> None:
    even = doubts_of(np.array([0.25] * 4), exclusive=True, positive=0)
    sure = doubts_of(np.array([1.0, 0, 0, 0]), exclusive=True, positive=3)
    assert even["entropy"] == pytest.approx(1)
    assert even["margin"] == pytest.approx(1)
    assert sure == {"entropy": pytest.approx(0, abs=1e-6), "margin": 0.0, "max_probability": 0.0}
    several = doubts_of(np.array([0.5, 0.99]), exclusive=False, positive=0)
    assert several["margin"] == pytest.approx(1)
    assert several["max_probability"] == pytest.approx(0.99)


def test_a_rival_is_dropped_only_when_it_is_clearly_worse() -> None:
    rng = np.random.default_rng(0)
    losses = rng.exponential(1, 100)
    assert worse_beyond_chance(losses + 0.5 + 0.1 * rng.normal(size=100), losses)
    assert not worse_beyond_chance(losses + 3 * rng.normal(size=100), losses)
    assert not worse_beyond_chance(losses, losses)


def test_patch_features_see_a_small_mark_in_a_large_surface() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(120, 8, (20, 128, 128, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=3)
    marked = plain.copy()
    for picture in marked[10:]:
        y, x = rng.integers(20, 100, 2)
        picture[y : y + 12, x : x + 2] = 30
    features = PatchFeatures()
    features.learn(list(plain), seed=0)
    with torch.inference_mode():
        found = features(torch.from_numpy(marked).permute(0, 3, 1, 2).float() / 255).numpy()
    assert found.shape == (20, features.dim)
    assert np.isfinite(found).all()
    gap = np.abs(found[10:].mean(0) - found[:10].mean(0)) / (found.std(0) + 1e-6)
    assert gap.max() > 1.9


def test_patch_features_of_even_pictures_are_finite() -> None:
    features = PatchFeatures()
    features.learn([np.full((64, 64, 3), 80, np.uint8)], seed=0)
    found = features(torch.full((1, 3, 64, 64), 0.3))
    assert torch.isfinite(found).all()
