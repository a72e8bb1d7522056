"""Doubts: the share that is wrong, whatever the number of objects; calibrated where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.errors import BadInput
from ml_backend.instances import Instances
from ml_backend.learners.doubt_scorer import DoubtScorer, fit_scorer, plain_scorer
from ml_backend.learners.mirrored import disagreement, predict_twice
from ml_backend.learners.picture_features import ClassicalFeatures, picture_features
from ml_backend.learners.uncertainty import NOTHING_SHOWN, confidence, doubts_of_tasks, named_doubts
from ml_backend.masks.rle import encode_mask


def found(*pairs: tuple[float, float]) -> Instances:
    n = len(pairs)
    return Instances(
        np.zeros(n, np.int64), np.zeros((n, 4), np.float32), [{"size": [1, 1], "counts": "01"}] * n,
        np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.float32),
        np.zeros((n, 0), np.float32),
    )  # fmt: skip


def test_confidence_orders_tasks() -> None:
    sure, doubtful, bad_mask = found((1.0, 1.0), (1.0, 1.0)), found((0.5, 0.6)), found((1.0, 0.3))
    assert confidence(sure) == pytest.approx(1.0)
    assert confidence(doubtful) < confidence(sure) > confidence(bad_mask)
    assert confidence(found(*[(0.99, 0.95)] * 4, (0.05, 0.5))) > 0.8, "what is not shown needs no mending"
    assert confidence(doubtful) < confidence(Instances.empty()) == 1 - NOTHING_SHOWN < confidence(sure)


def test_crowds_are_neither_preferred_nor_saturated() -> None:
    pairs = [(0.9, 0.9), (0.6, 0.5)]
    assert confidence(found(*pairs)) == pytest.approx(confidence(found(*pairs * 40)))
    crowds = [confidence(found(*[(0.5, 0.5)] * k, *[(0.99, 0.95)] * 40)) for k in range(6, 20)]
    assert (np.diff(crowds) < 0).all(), "one more wrong object always counts"


def test_doubts_stay_in_range_for_odd_numbers() -> None:
    score = np.array([np.nan, -1, 2, 0.5], np.float32)
    quality = np.array([np.nan, 2, -1, 0], np.float32)
    for column in doubts_of_tasks(np.array([0, 0, 1, 1]), score, quality, 3).values():
        assert ((column >= 0) & (column <= 1)).all()
        assert column[0] == column[2] == NOTHING_SHOWN


def test_many_tasks_at_once_are_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    task, score, quality = rng.integers(0, 9, 200), rng.random(200), rng.random(200)
    together = doubts_of_tasks(task, score, quality, 9)
    for i in range(9):
        mine = task == i
        alone = named_doubts(found(*zip(score[mine], quality[mine], strict=True)))
        assert {name: column[i] for name, column in together.items()} == pytest.approx(alone, abs=1e-6)


def test_what_the_model_says_itself_goes_first() -> None:
    doubts = named_doubts(replace(found((0.5, 0.5)), doubts={"entropy": 0.1, "mask_entropy": 0.7}))
    assert (doubts["entropy"], doubts["mask_entropy"]) == (0.1, 0.7)
    assert doubts["quality"] == pytest.approx(0.75)


def _known(n: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Doubts of which only one says what is wrong."""
    rng = np.random.default_rng(seed)
    doubts = {name: rng.random(n) for name in ("entropy", "quality", "placement")}
    return doubts, np.clip(0.2 + 0.6 * doubts["placement"] + 0.05 * rng.normal(size=n), 0, 1)


def test_calibration_finds_the_doubt_that_counts() -> None:
    doubts, share = _known(300, 1)
    known = np.arange(300) < 40
    scorer = fit_scorer(doubts, share, known)
    value = scorer.values(doubts, 300)[~known]
    assert scorer.fitted_on == 40
    assert np.corrcoef(value, share[~known])[0, 1] > 0.95
    assert np.abs(value - share[~known]).mean() < 0.08, "it is the expected share"
    assert DoubtScorer.from_json(scorer.as_json()) == scorer


@pytest.mark.parametrize("case", ["few", "all the same", "no relation"])
def test_without_knowledge_the_weights_are_equal(case: str) -> None:
    doubts, share = _known(40, 2)
    known = np.arange(40) < (10 if case == "few" else 40)
    if case == "all the same":
        share = np.full(40, 0.5)
    if case == "no relation":
        share = np.random.default_rng(9).random(40)
    scorer = fit_scorer(doubts, share, known)
    if case == "no relation":
        assert np.std(scorer.values(doubts, 40)) < 0.12, "it says next to nothing"
    else:
        assert scorer == plain_scorer("ours", tuple(doubts))


def test_a_single_doubt_that_is_not_there_is_said() -> None:
    assert plain_scorer("tta", ("entropy", "tta")).names == ("tta",)
    missing = plain_scorer("mask_entropy", ("entropy",))
    assert missing.names == ("entropy",)
    assert "mask_entropy" in missing.note


def test_missing_doubts_are_filled() -> None:
    scorer = plain_scorer("ours", ("entropy", "tta"))
    columns = {"entropy": np.array([0.2, 0.4]), "tta": np.array([np.nan, 0.8])}
    assert scorer.values(columns, 2).tolist() == pytest.approx([0.5, 0.6])
    assert scorer.values({"entropy": np.array([0.3])}, 1).tolist() == pytest.approx([0.3])


def square(x: int, *, score: float = 0.9, hw: tuple[int, int] = (20, 40)) -> Instances:
    mask = np.zeros(hw, bool)
    mask[5:15, x : x + 10] = True
    return Instances(
        np.zeros(1, np.int64), np.array([[x, 5, x + 10, 15]], np.float32), [encode_mask(mask)],
        np.array([score], np.float32), np.ones(1, np.float32), np.zeros((1, 0), np.float32),
    )  # fmt: skip


def test_the_mirrored_picture_is_compared_in_its_own_place() -> None:
    assert disagreement(square(2), square(28)) == pytest.approx(0.0)
    assert disagreement(square(2), square(28, score=0.5)) == pytest.approx(0.4)
    assert disagreement(square(2), square(23)) == pytest.approx(1 - 5 / 15)
    assert disagreement(square(2), square(2)) == 1.0
    assert disagreement(square(2), Instances.empty()) == 1.0
    assert disagreement(Instances.empty(), Instances.empty()) == 0.0


class OneSided:
    """Finds the square only where it is on the left."""

    labels, embedding_dim, nbytes = ("square",), 0, 0

    def predict(self, images: Sequence[Any]) -> Iterator[Instances]:
        for image in images:
            x = int(np.flatnonzero(image.max(axis=(0, 2)))[0])
            yield square(x) if x < 10 else Instances.empty()


def test_a_model_that_depends_on_the_side_is_doubted() -> None:
    left, middle = np.zeros((20, 40, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)
    left[5:15, 2:12], middle[5:15, 9:19] = 255, 255
    assert [found.doubts["tta"] for found in predict_twice(OneSided(), [left, middle])] == [1.0, 1.0]


def test_classical_features_tell_pictures_apart_and_ignore_size() -> None:
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
    bright = rng.integers(190, 255, (64, 64, 3)).astype(np.uint8)
    double = np.repeat(np.repeat(dark, 2, axis=0), 2, axis=1)
    vectors = ClassicalFeatures()([dark, bright, double])
    assert vectors.shape == (3, ClassicalFeatures.dim)
    assert np.isfinite(vectors).all()
    near = np.linalg.norm(vectors[0] - vectors[2])
    assert near < 0.3 * np.linalg.norm(vectors[0] - vectors[1])
    assert ClassicalFeatures()([]).shape == (0, ClassicalFeatures.dim)


def test_blurred_masks_are_doubted() -> None:
    import torch

    from ml_backend.learners.blurred import mask_entropy

    sharp, blurred = torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.5)
    both = torch.cat([sharp, blurred])
    assert mask_entropy(sharp, torch.tensor([0.9])) == pytest.approx(0.0, abs=1e-4)
    assert mask_entropy(blurred, torch.tensor([0.9])) == pytest.approx(1.0)
    assert mask_entropy(both, torch.tensor([0.9, 0.1])) == pytest.approx(0.0, abs=1e-4), "one is not shown"
    assert mask_entropy(both, torch.tensor([0.1, 0.1])) == pytest.approx(0.5, abs=1e-4)
    assert mask_entropy(sharp[:0], torch.tensor([])) == 0.0


def test_a_vision_model_from_a_folder_gives_features(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=16,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    features = picture_features(str(tmp_path / "vit"))
    images = [np.full((40, 50, 3), level, np.uint8) for level in (0, 200)]
    found = features(images)
    assert found.shape == (2, 16)
    assert not np.allclose(found[0], found[1])
    np.testing.assert_allclose(features(images[1:]), found[1:], rtol=1e-4, atol=1e-5)
    assert features.name == picture_features(str(tmp_path / "vit")).name
    assert features.name.startswith("vit-")
    with pytest.raises(BadInput, match="no features"):
        picture_features("no such folder")
