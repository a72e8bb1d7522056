"""What a Mask R-CNN starts from: published weights and own checkpoints by path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from ml_backend.artifacts.files import write_json
from ml_backend.errors import ModelError
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network
from ml_backend.learners.maskrcnn.settings import TrainSettings, train_settings
from ml_backend.learners.maskrcnn.start import start_network
from ml_backend.learners.weights import read_weights, save_weights

from .shapes import LABELS, draw_examples


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    return TrainSpec(LABELS, tuple(draw_examples(tmp_path_factory.mktemp("images"), 2)), ())


def settings(weights: Path | str, **more: object) -> TrainSettings:
    return train_settings("light", {"weights": str(weights), "channels": 32, **more})


def own_version(folder: Path, spec: TrainSpec) -> NetworkConfig:
    torch.manual_seed(1)
    config, model, _ = start_network(spec, settings("none"))
    config = dataclasses.replace(config, mask_margin=0.25)
    folder.mkdir()
    save_weights(model.state_dict(), folder / "weights.safetensors")
    write_json(folder / "learner.json", {"learner": "maskrcnn", **config.to_json()})
    return config


def test_an_own_version_by_path_keeps_how_it_sees_pictures(tmp_path: Path, spec: TrainSpec) -> None:
    before = own_version(tmp_path / "v1", spec)
    other = dataclasses.replace(spec, labels=("square", "star"))
    config, model, said = start_network(other, settings(tmp_path / "v1" / "weights.safetensors"))
    assert said == "weights of weights.safetensors"
    assert config.labels == ("square", "star")
    assert (config.normalise, config.mask_margin) == ("image", 0.25)
    assert config.geometry == before.geometry
    old = build_network(before)
    old.load_state_dict(read_weights(tmp_path / "v1" / "weights.safetensors"))
    was, now = (m.roi_heads.box_predictor.cls_score.weight for m in (old, model))
    torch.testing.assert_close(now[1], was[2])  # square was the second label, and is the first


def test_what_does_not_fit_is_named(tmp_path: Path, spec: TrainSpec) -> None:
    own_version(tmp_path / "v1", spec)
    state = read_weights(tmp_path / "v1" / "weights.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pth")
    assert start_network(spec, settings(tmp_path / "wrapped.pth"))[2] == "weights of wrapped.pth"
    torch.save({k: v for k, v in state.items() if "roi_heads" not in k}, tmp_path / "part.pth")
    said = start_network(spec, settings(tmp_path / "part.pth"))[2]
    assert "tensors start anew: roi_heads.box_head" in said
    with pytest.raises(ModelError, match=r"tensors of backbone do not fit .* of another shape") as caught:
        start_network(spec, settings(tmp_path / "part.pth", channels=64))
    assert caught.value.field == "options.weights"
    torch.save({"something": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"absent.*backbone\.stem.*the file has backbone\.something"):
        start_network(spec, settings(tmp_path / "other.pth"))
    with pytest.raises(ModelError, match="no weights at"):
        start_network(spec, settings(tmp_path / "none.pth"))


def test_classifiers_of_pictures_fill_the_backbone(tmp_path: Path, spec: TrainSpec) -> None:
    from torchvision.models import mobilenet_v3_large

    published = mobilenet_v3_large(weights=None)
    torch.save(published.state_dict(), tmp_path / "pictures.pth")
    config, model, said = start_network(
        spec, settings(tmp_path / "pictures.pth", backbone="mobilenet_v3_large")
    )
    assert config.normalise == "imagenet"
    assert "start anew: backbone.fpn" in said
    taken = model.get_submodule("backbone.features.5.block.0.0").weight
    torch.testing.assert_close(taken, published.features[5].block[0][0].weight)


def test_published_mask_rcnn_loads_with_the_new_head(
    tmp_path: Path, spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    published = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    file = "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
    torch.save(published.state_dict(), tmp_path / "checkpoints" / file)
    _, model, said = start_network(spec, train_settings("full", {"weights": "cached"}))
    assert said.startswith("published weights: Mask R-CNN ResNet-50 FPN v2 trained on COCO (cached)")
    left = {"roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits", "roi_heads.quality_head"}
    for name, tensor in model.state_dict().items():
        if not any(name.startswith(part) for part in left):
            torch.testing.assert_close(tensor, published.state_dict()[name], msg=name)
