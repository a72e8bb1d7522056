"""The score of masks that no model made: it falls where the mask leaves the object."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bench.click_confidence import calibration, fit
from ml_backend.clicks.base import Prompt
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.mask_confidence import FEATURES, expected_iou, mask_features
from ml_backend.clicks.start_masks import start_mask_from


def scene(size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipse on a noisy ground, and its mask."""
    mask = np.zeros((size, size), np.uint8)
    cv2.ellipse(mask, (size // 2, size // 2), (size // 4, size // 6), 20, 0, 360, 1, -1)
    noise = np.random.default_rng(0).normal(0, 6, (size, size, 3))
    pixels = np.where(mask[..., None] > 0, (200, 80, 60), (60, 100, 70)) + noise
    return np.clip(pixels, 0, 255).astype(np.uint8), mask > 0


def test_a_mask_that_leaves_the_object_is_expected_to_be_worse() -> None:
    pixels, truth = scene()
    right = expected_iou(pixels, truth, clicks=1)
    shifted = [expected_iou(pixels, np.roll(truth, by, axis=1), clicks=1) for by in (8, 25)]
    elsewhere = expected_iou(pixels, np.roll(truth, 100, axis=0), clicks=1)
    assert 1.0 > right > shifted[0] > shifted[1] > 0.0
    assert right > elsewhere + 0.1


def test_edge_cases() -> None:
    pixels, truth = scene(60)
    assert expected_iou(pixels, np.zeros_like(truth), clicks=1) == 0.0
    for mask in (np.ones_like(truth), truth & (np.arange(60) == 30)):
        found = mask_features(pixels, mask, clicks=3, before=truth)
        assert found.shape == (len(FEATURES),)
        assert np.isfinite(found).all()
    one = np.zeros_like(truth)
    one[0, 0] = True
    assert 0.0 < expected_iou(pixels, one, clicks=1) < 1.0
    assert np.isfinite(
        mask_features(np.repeat(pixels, 30, axis=1), np.repeat(one, 30, axis=1), clicks=1)
    ).all()


def test_the_segmenter_no_longer_gives_everything_the_same_score() -> None:
    pixels, truth = scene()
    segmenter = ClassicalSegmenter()
    embedding = segmenter.embed(pixels)
    on_object = segmenter.segment(embedding, Prompt(((100.0, 100.0, True),), None, ""), None)
    nowhere = segmenter.segment(embedding, Prompt(((10.0, 10.0, True),), None, ""), None)
    assert on_object.iou[0] != nowhere.iou[0]
    shown = start_mask_from(truth, from_proposal=True)
    kept = segmenter.segment(embedding, Prompt((), None, ""), shown)
    assert kept.masks[0] is truth or (kept.masks[0] == truth).all()
    assert kept.iou[0] == pytest.approx(expected_iou(pixels, truth, clicks=1))


def test_the_fit_is_calibrated_on_what_it_was_fitted_on() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (800, 3))
    y = 1 / (1 + np.exp(-(x @ [1.0, -0.5, 0.0] + 0.7))) + rng.normal(0, 0.05, 800)
    y = np.clip(y, 0, 1)
    weights, bias = fit(x, y, np.ones(800), ridge=0.0)
    np.testing.assert_allclose(weights, [1.0, -0.5, 0.0], atol=0.06)
    score = 1 / (1 + np.exp(-(x @ weights + bias)))
    found = calibration(score, y, np.arange(800))
    assert found["calibration error"] < 0.02
    assert calibration(np.full(800, 0.6), y, np.arange(800))["rank correlation"] == 0.0
