"""Write a model version as one TorchScript file, which needs only torch and torchvision to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.learners.maskrcnn.architecture import NetworkConfig
from ml_backend.learners.pixels import prepare
from ml_backend.learners.torchscript import write_torchscript

__all__ = ["export_torchscript"]


class _FromPixels(nn.Module):
    """(3, H, W) uint8 RGB → boxes (n, 4) xyxy in image pixels, labels (n,) from 0, scores (n,), masks
    (n, H, W) bool, and quality (n,), the predicted IoU, where the version has a head for it. Scaling and
    normalisation are inside; the resize is torch's antialiased bilinear one, so results differ from the
    predictor's in the last digits."""

    def __init__(self, model: nn.Module, config: NetworkConfig) -> None:
        super().__init__()
        self.model = model
        self.scale = config.geometry.scale
        self.max_side = config.max_side
        self.wide = config.mask_margin > 0
        self.how = config.normalise

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2], image.shape[-1]
        x = prepare(image, self.scale, self.max_side, self.how)
        net_h, net_w = x.shape[-2], x.shape[-1]
        found = self._detections([x])
        grow = torch.tensor([width / net_w, height / net_h, width / net_w, height / net_h], device=x.device)
        masks = found["masks"]
        if masks.shape[0] > 0:
            masks = functional.interpolate(masks, size=[height, width], mode="bilinear", align_corners=False)
        else:
            masks = torch.zeros([0, 1, height, width], device=x.device)
        drawn = masks[:, 0] > 0.5
        result = {
            "boxes": tight_boxes(drawn) if self.wide else found["boxes"] * grow,
            "labels": found["labels"] - 1,
            "scores": found["scores"],
            "masks": drawn,
        }
        if "quality" in found:
            result["quality"] = found["quality"]
        return result

    def _detections(self, images: list[Tensor]) -> dict[str, Tensor]:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            both: tuple[dict[str, Tensor], list[dict[str, Tensor]]] = self.model(images)
            return both[1][0]
        return self.model(images)[0]  # type: ignore[no-any-return]


def tight_boxes(masks: Tensor) -> Tensor:
    """(n, 4) float32 boxes around (n, h, w) bool masks, right and bottom edges exclusive; zeros for an empty
    mask."""
    columns, rows = masks.any(dim=1).to(torch.float32), masks.any(dim=2).to(torch.float32)
    if masks.shape[0] == 0:
        return torch.zeros([0, 4], device=masks.device)
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1 = columns.shape[1] - columns.flip([1]).argmax(1)
    y1 = rows.shape[1] - rows.flip([1]).argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1).to(torch.float32) * columns.amax(1)[:, None]


def export_torchscript(model: nn.Module, config: NetworkConfig, out: Path) -> Path:
    """Write ``out`` (TorchScript) and beside it a .json of labels, input and output. Raises ModelError."""
    return write_torchscript(
        _FromPixels(model.eval(), config),
        out,
        {
            "labels": list(config.labels),
            "input": "(3, H, W) uint8 RGB, any size",
            "output": {
                "boxes": "(n, 4) float32 x0 y0 x1 y1 in image pixels",
                "labels": "(n,) int64, index into labels",
                "scores": "(n,) float32, falling",
                "masks": "(n, H, W) bool",
                **({"quality": "(n,) float32, predicted IoU of the mask"} if config.quality_head else {}),
            },
        },
    )
