"""A detector that finds a box and sets no pixel in it: such instances end at the predictor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ml_backend.learners.maskrcnn import predictor
from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.maskrcnn.predictor import MaskRcnnPredictor
from ml_backend.masks.rle import rle_area


def test_boxes_without_a_pixel_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    anchors = ((16.0,), (32.0,))
    config = NetworkConfig(("cell",), "small", 32, Geometry(1.0, anchors, (0.5, 1.0, 2.0), 20), "image")
    model = build_network(config)
    model.roi_heads.score_thresh = 0.0
    sizes: list[int] = []

    def every_second(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sizes.append(len(grid))
        out = np.ones_like(grid)
        out[::2] = 0.0
        return out

    monkeypatch.setattr(predictor, "without_specks", every_second)
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    (found,) = MaskRcnnPredictor(model, config, device=torch.device("cpu")).predict([image])
    assert sizes[0] >= 2
    assert len(found) == sizes[0] // 2
    assert all(rle_area(rle) > 0 for rle in found.rle)
