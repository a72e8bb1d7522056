"""Masks described one by one: what is cut out, and by which model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import BadInput
from ml_backend.instances import Instances
from ml_backend.learners.mask_features import MaskFeatures, mask_crop
from ml_backend.masks.rle import encode_mask


def picture(seed: int = 0) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (40, 60, 3)).astype(np.uint8)


def test_a_mask_is_cut_out_square_and_alone() -> None:
    image = picture()
    mask = np.zeros((40, 60), bool)
    mask[10:14, 20:30] = True
    mask[11, 25] = False
    crop = mask_crop(image, encode_mask(mask))
    assert crop.shape == (10, 10, 3)
    assert (crop[3, 0] == image[10, 20]).all()
    assert (crop[6, 9] == image[13, 29]).all()
    assert (crop[:3] == 124).all()
    assert (crop[7:] == 124).all()
    assert (crop[4, 5] == 124).all()  # the hole
    assert mask_crop(image, encode_mask(np.zeros((40, 60), bool))).shape == (1, 1, 3)
    assert (mask_crop(image, encode_mask(np.ones((40, 60), bool)))[10:50] == image).all()


def test_embeddings_depend_on_the_mask_alone(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
    )  # fmt: skip
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    for choice, dim in ((str(tmp_path / "dino"), 16), ("classical", 126)):
        features = MaskFeatures(choice)
        assert features.dim == dim
        image, masks = picture(), []
        for i in range(40):  # more than one batch
            mask = np.zeros((40, 60), bool)
            mask[i // 4 : i // 4 + 12, i : i + 15 + i % 3] = True
            masks.append(encode_mask(mask))
        found = features(image, masks)
        assert found.shape == (40, dim)
        assert found.dtype == np.float32
        np.testing.assert_allclose(features(image, masks[35:36]), found[35:36], rtol=1e-3, atol=1e-5)
        outside = image.copy()
        outside[30:, :] = 0
        np.testing.assert_allclose(features(outside, masks[:4]), found[:4], rtol=1e-3, atol=1e-5)
        assert not np.allclose(features(255 - image, masks[:4]), found[:4], atol=1e-3)
        assert features(image, []).shape == (0, dim)
        instances = Instances(
            np.zeros(40, np.int64), np.zeros((40, 4), np.float32), masks, np.ones(40, np.float32),
            np.ones(40, np.float32), np.zeros((40, 3), np.float32), {"entropy": 0.5},
        )  # fmt: skip
        embedded = features.embed(image, instances)
        np.testing.assert_allclose(embedded.embedding, found, rtol=1e-4, atol=1e-5)
        assert embedded.doubts == {"entropy": 0.5}


def test_a_model_that_is_not_there_is_named_with_its_setting() -> None:
    with pytest.raises(BadInput, match="no features called 'nowhere'") as caught:
        MaskFeatures("nowhere", field="cluster_features")
    assert caught.value.field == "cluster_features"
