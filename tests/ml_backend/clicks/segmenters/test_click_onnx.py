"""Click networks in ONNX form: our own export equals torch, and the RITM signature is fed as RITM expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.project_network.click_net import (
    ClickNet,
    NetworkManifest,
    ProjectSegmenter,
    save_network,
)
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings

pytest.importorskip("onnxruntime", reason="extra 'onnx' is not installed")
pytest.importorskip("onnx", reason="extra 'onnx' is not installed")

from ml_backend.clicks.project_network.onnx_export import export_click_network
from ml_backend.clicks.segmenters.click_onnx import ClickOnnxSegmenter, _point_rows, from_settings

PROMPTS = [
    Prompt(((40.0, 50.0, True),), None, ""),
    Prompt(((40.0, 50.0, True), (60.0, 50.0, False), (35.0, 40.0, True)), None, ""),
    Prompt((), (20.0, 20.0, 70.0, 60.0), ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = ClickNet(8)
    for module in network.modules():  # running statistics that matter, so that folding them is tested
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("network")
    save_network(path, network, NetworkManifest(size=64, width=8, first_side=44.0))
    export_click_network(path, path / "click.onnx")
    return path


def test_export_equals_torch(folder: Path) -> None:
    ours, exported = ProjectSegmenter(folder), ClickOnnxSegmenter(folder / "click.onnx", threads=1)
    assert (exported.size, exported.first_side) == (ours.size, ours.first_side) == (64, 44.0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        clicks = (rng.random((3, 64, 64)) > 0.95).astype(np.float32)
        previous = (rng.random((64, 64)) > 0.5).astype(np.float32)
        points = np.zeros((0, 3), np.float32)
        torch_logits = ours._logits(image, clicks, previous, points)
        assert np.ptp(torch_logits) > 0.1
        np.testing.assert_allclose(exported._logits(image, clicks, previous, points), torch_logits, atol=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_masks_through_the_whole_path(folder: Path, prompt: Prompt) -> None:
    ours, exported = ProjectSegmenter(folder), ClickOnnxSegmenter(folder / "click.onnx", threads=1)
    image = np.random.default_rng(1).integers(0, 255, (100, 130, 3), dtype=np.uint8)
    mask = np.zeros((100, 130), bool)
    mask[30:60, 30:70] = True
    for start_mask in (None, StartMask(mask, None, box_of_mask(mask), True)):
        one = ours.segment(ours.embed(image), prompt, start_mask)
        two = exported.segment(exported.embed(image), prompt, start_mask)
        assert (one.masks != two.masks).mean() < 1e-3  # a logit within 1e-5 of 0 may fall either way
        np.testing.assert_allclose(one.iou, two.iou, atol=1e-3)


def test_point_rows_as_ritm_packs_them() -> None:
    clicks = np.array([[3, 4, 1], [5, 6, 0], [7, 8, 1]], np.float32)
    rows = _point_rows(clicks, None)
    assert rows.shape == (1, 6, 3)
    gone = [-1, -1, -1]
    assert rows[0].tolist() == [[4, 3, 0], [8, 7, 2], gone, [6, 5, 1], gone, gone]
    assert _point_rows(clicks, 2)[0].tolist() == [[8, 7, 2], [6, 5, 1]]  # the latest of each sign
    assert (_point_rows(np.zeros((0, 3), np.float32), None) == -1).all()


class Ritm(nn.Module):
    """forward(image with previous mask, points) -> logits: object where it is near the last positive
    click.
    """

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        half = points.shape[1] // 2
        rows = torch.arange(64, dtype=torch.float32).view(1, 1, 64, 1)
        columns = torch.arange(64, dtype=torch.float32).view(1, 1, 1, 64)
        far = torch.tensor(1e6)
        out = image[:, 3:4] * 0.5
        positive, negative = points[:, :half], points[:, half:]
        for group, sign in ((positive, 1.0), (negative, -1.0)):
            y, x, used = group[..., 0], group[..., 1], group[..., 2] >= 0
            squared = (rows - y[:, :, None, None]) ** 2 + (columns - x[:, :, None, None]) ** 2
            squared = torch.where(used[:, :, None, None], squared, far)
            near = torch.relu(100.0 - squared.amin(1, keepdim=True)) / 10.0
            out = out + sign * near
        return out - 1.0


@pytest.fixture(scope="module")
def ritm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ritm") / "ritm.onnx"
    torch.onnx.export(
        Ritm(),
        (torch.zeros(1, 4, 64, 64), torch.full((1, 8, 3), -1.0)),
        path,
        input_names=["image", "points"],
        output_names=["instances"],
        dynamic_axes={"points": {1: "rows"}},
        opset_version=17,
        dynamo=False,
    )
    return path


def test_ritm_signature(ritm_file: Path) -> None:
    segmenter = ClickOnnxSegmenter(ritm_file, threads=1)
    assert segmenter.size == 64
    embedding = segmenter.embed(np.zeros((64, 64, 3), np.uint8))
    mask = segmenter.segment(embedding, Prompt(((20.0, 40.0, True),), None, ""), None).masks[0]
    ys, xs = np.nonzero(mask)
    assert abs(xs.mean() - 20) < 1.5
    assert abs(ys.mean() - 40) < 1.5
    cut = segmenter.segment(
        embedding, Prompt(((20.0, 40.0, True), (26.0, 40.0, False)), None, ""), None
    ).masks[0]
    assert not cut[40, 26]
    assert cut.sum() < mask.sum()
    boxed = segmenter.segment(embedding, Prompt((), (10.0, 30.0, 30.0, 50.0), ""), None).masks[0]
    assert boxed[40, 20]


def test_bad_files(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot load"):
        ClickOnnxSegmenter(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="cannot load"):
        ClickOnnxSegmenter(tmp_path / "absent.onnx")
    torch.onnx.export(
        nn.Conv2d(3, 1, 1),
        (torch.zeros(1, 3, 8, 8),),
        tmp_path / "y.onnx",
        input_names=["pixels"],
        dynamo=False,
    )
    with pytest.raises(ModelError, match="Expected image, clicks, previous or image, points"):
        ClickOnnxSegmenter(tmp_path / "y.onnx")
    with pytest.raises(ModelError, match="no click network is configured"):
        from_settings(BackendSettings(), None)
    built = from_settings(BackendSettings(sam_checkpoint=folder / "click.onnx"), None)
    assert built.name == "click-onnx"
