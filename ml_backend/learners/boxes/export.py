"""Write a box network as one TorchScript file, which needs only torch and torchvision to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.artifacts.files import storage_errors, write_json
from ml_backend.errors import ModelError
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector, Found

__all__ = ["export_torchscript"]


class _FromPixels(nn.Module):
    """(3, H, W) uint8 RGB → boxes (n, 4) xyxy in image pixels, labels (n,) from 0, scores (n,), quality (n,).
    Scaling and normalisation are inside; the resize is torch's antialiased bilinear one, so results differ
    from the predictor's in the last digits."""

    def __init__(self, model: BoxDetector, network: BoxNetwork) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model = model
        self.scale = network.geometry.scale
        self.max_side = network.max_side
        self.by_image = network.normalise == "image"
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2], image.shape[-1]
        factor = min(self.scale, self.max_side / max(height, width))
        # TorchScript rounds to a float
        net_h, net_w = max(16, int(round(height * factor))), max(16, int(round(width * factor)))  # noqa: RUF046
        x = image.to(torch.float32) / 255
        mean = x.mean() if self.by_image else self.mean
        std = x.std().clamp(min=0.02) if self.by_image else self.std
        x = (x - mean) / std
        x = functional.interpolate(
            x[None], size=[net_h, net_w], mode="bilinear", align_corners=False, antialias=True
        )
        found: Found = self.model([x[0]])[0]
        grow = torch.tensor([width / net_w, height / net_h, width / net_w, height / net_h], device=x.device)
        return {
            "boxes": found.boxes * grow,
            "labels": found.labels,
            "scores": found.scores,
            "quality": found.quality,
        }


def export_torchscript(model: BoxDetector, network: BoxNetwork, out: Path) -> Path:
    """Write ``out`` (TorchScript) and beside it a .json of labels, input and output. Raises ModelError."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        scripted = torch.jit.script(_FromPixels(model.eval(), network).eval())
    except RuntimeError as error:
        raise ModelError(f"this network cannot be written as TorchScript: {error}") from error
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scripted.save(str(out))  # type: ignore[no-untyped-call]
    write_json(
        out.with_suffix(".json"),
        {
            "format": "torchscript",
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
    return out
