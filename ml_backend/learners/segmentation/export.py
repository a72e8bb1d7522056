"""Write a model version as one TorchScript file, which needs only torch and torchvision to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.learners.pixels import prepare
from ml_backend.learners.segmentation.network import NetworkConfig, SegmentationNetwork
from ml_backend.learners.torchscript import write_torchscript

__all__ = ["export_torchscript"]


class _FromPixels(nn.Module):
    """(3, H, W) uint8 RGB → ``probabilities`` (labels, H, W) float32 and ``masks`` (labels, H, W) bool.

    The same steps as the predictor's: the outputs differ by rounding only.
    """

    def __init__(self, model: SegmentationNetwork, config: NetworkConfig) -> None:
        super().__init__()
        self.line: Tensor
        self.threshold: Tensor
        self.model = model
        self.scale = config.scale
        self.max_side = config.max_side
        self.how = config.normalise
        self.register_buffer("line", torch.tensor(config.calibration, dtype=torch.float32))
        self.register_buffer("threshold", torch.tensor(config.threshold, dtype=torch.float32))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        pixels = prepare(image, self.scale, self.max_side, self.how)
        logits = self.model.encode(pixels[None])[1][0]
        calibrated = logits * self.line[:, :1, None] + self.line[:, 1:, None]
        full = functional.interpolate(
            calibrated[None], size=[image.shape[-2], image.shape[-1]], mode="bilinear", align_corners=False
        )
        probabilities = full[0].sigmoid()
        return {"probabilities": probabilities, "masks": probabilities > self.threshold[:, None, None]}


def export_torchscript(model: SegmentationNetwork, config: NetworkConfig, out: Path) -> Path:
    """Write ``out`` (TorchScript) and beside it a .json of labels, input and output. Raises ModelError."""
    return write_torchscript(
        _FromPixels(model.eval(), config),
        out,
        {
            "labels": list(config.labels),
            "thresholds": list(config.threshold),
            "input": "(3, H, W) uint8 RGB, any size",
            "output": {
                "probabilities": "(labels, H, W) float32, calibrated, in 0..1",
                "masks": "(labels, H, W) bool, probabilities above the label's threshold",
            },
        },
    )
