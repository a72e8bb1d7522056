"""Frozen features from a local folder, as transformers saves models; tiny ones with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.learners.base import TrainSpec
from ml_backend.learners.classes.features import read_local_features
from ml_backend.learners.classes.learner import Classifier

from .stripes import LABELS, draw_tagged

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save_dino(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SMALL, mlp_ratio=1, image_size=28, patch_size=14)
    transformers.Dinov2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        )
    )


def save_siglip(folder: Path) -> None:
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 50, "max_position_embeddings": 8}
    vision = SMALL | {"image_size": 32, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    transformers.SiglipModel(config).save_pretrained(folder)


def save_convnext(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32)
    transformers.ConvNextModel(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "side", "dim"), [(save_dino, 56, 32), (save_siglip, 32, 32), (save_convnext, 32, 16)]
)
def test_a_head_is_trained_on_features_of_a_folder(tmp_path: Path, save: object, side: int, dim: int) -> None:
    folder = tmp_path / "model"
    save(folder)  # type: ignore[operator]
    features = read_local_features(folder)
    assert (features.side, features.dim) == (side, dim)
    spec = TrainSpec(
        LABELS,
        draw_tagged(tmp_path / "images", 12),
        (),
        device="cpu",
        options={"features": str(folder), "method": "linear", "threads": 1},
        exclusive=True,
    )
    report = Classifier().train(spec, tmp_path / "v1", lambda share, line: None)
    assert "frozen features of model" in report.started_from
    (folder / "model.safetensors").unlink()  # a version holds all it needs
    image = np.full((40, 40, 3), 90, np.uint8)
    image[:, ::4] = 200
    predictor = Classifier().load(tmp_path / "v1", device="cpu")
    wanted, _ = predictor.probabilities([image])
    with torch.inference_mode():
        mine = predictor._network.features(torch.zeros(1, 3, side, side))
        assert torch.allclose(mine, features.eval()(torch.zeros(1, 3, side, side)), atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    out = Classifier().export(tmp_path / "v1", tmp_path / "model.onnx")
    from ml_backend.learners.classes.squares import square

    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    pixels = square(image, side).transpose(2, 0, 1)[None].astype(np.float32)
    assert np.allclose(session.run(None, {"pixels": pixels})[0], wanted, atol=1e-4)
