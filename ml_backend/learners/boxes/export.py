"""Write a box network as one TorchScript file, which needs only torch and torchvision to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector, Found
from ml_backend.learners.pixels import prepare
from ml_backend.learners.torchscript import write_torchscript

__all__ = ["export_torchscript"]


class _FromPixels(nn.Module):
    """(3, H, W) uint8 RGB → boxes (n, 4) xyxy in image pixels, labels (n,) from 0, scores (n,), quality (n,).
    Scaling and normalisation are inside; the resize is torch's antialiased bilinear one, so results differ
    from the predictor's in the last digits."""

    def __init__(self, model: BoxDetector, network: BoxNetwork) -> None:
        super().__init__()
        self.model = model
        self.scale = network.geometry.scale
        self.max_side = network.max_side
        self.how = network.normalise

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2], image.shape[-1]
        x = prepare(image, self.scale, self.max_side, self.how)
        net_h, net_w = x.shape[-2], x.shape[-1]
        found: Found = self.model([x])[0]
        grow = torch.tensor([width / net_w, height / net_h, width / net_w, height / net_h], device=x.device)
        return {
            "boxes": found.boxes * grow,
            "labels": found.labels,
            "scores": found.scores,
            "quality": found.quality,
        }


def export_torchscript(model: BoxDetector, network: BoxNetwork, out: Path) -> Path:
    """Write ``out`` (TorchScript) and beside it a .json of labels, input and output. Raises ModelError."""
    return write_torchscript(
        _FromPixels(model.eval(), network),
        out,
        {
            "labels": list(network.labels),
            "input": "(3, H, W) uint8 RGB, any size",
            "output": {
                "boxes": "(n, 4) float32 x0 y0 x1 y1 in image pixels",
                "labels": "(n,) int64, index into labels",
                "scores": "(n,) float32, falling",
                "quality": "(n,) float32, predicted IoU of the box",
            },
        },
    )
