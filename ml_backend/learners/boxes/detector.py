"""What every box network does: losses while it learns, detections when it is used."""
# TorchScript reads the annotations of this module: they must not be strings

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_area

__all__ = ["BoxDetector", "Found", "batched", "covered_by", "level_pool"]


class Found(NamedTuple):
    """Detections on one image, in network pixels.

    ``boxes`` (n, 4) xyxy; ``labels`` (n,) from 0; ``scores`` (n,), falling; ``quality`` (n,) predicted IoU;
    ``pooled`` (n, c, 7, 7) features of each box.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    quality: Tensor
    pooled: Tensor


class BoxDetector(nn.Module):
    """Base of the box networks. Images come scaled and normalised, (3, h, w) float.

    ``losses`` is called with targets as in ``crops.Sample``, ``find`` with the module in evaluation mode.
    """

    pooled_size: int
    """c × 49: numbers per box in ``Found.pooled``."""
    class_rows: ClassVar[Mapping[str, int]]
    """Parts of the names of tensors that have rows per label: rows before the first label's."""

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses of one batch of crops, to be summed."""
        raise NotImplementedError

    def find(self, images: list[Tensor]) -> list[Found]:
        """Detections on each image."""
        raise NotImplementedError


def batched(images: list[Tensor]) -> ImageList:
    """Images side by side in one tensor, padded below and right with zeros to a multiple of 32."""
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    height = (max([size[0] for size in sizes]) + 31) // 32 * 32
    width = (max([size[1] for size in sizes]) + 31) // 32 * 32
    batch = torch.zeros([len(images), 3, height, width], dtype=images[0].dtype, device=images[0].device)
    for i, image in enumerate(images):
        batch[i, :, : sizes[i][0], : sizes[i][1]] = image
    return ImageList(batch, sizes)


def covered_by(boxes: Tensor, areas: Tensor) -> Tensor:
    """(n,) bool: whether at least half of each box (n, 4), which has an area, lies in one of the areas
    (m, 4)."""
    if not len(areas):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    low = torch.maximum(boxes[:, None, :2], areas[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], areas[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)
    inside: Tensor = (common > 0) & (common >= 0.5 * box_area(boxes)[:, None])
    return inside.any(dim=1)


def level_pool(channels: int, strides: Sequence[int]) -> MultiScaleRoIAlign:
    """RoI pooling to 7 × 7 over pyramid levels "0", "1", … of these strides.

    The pooler derives its scales from the first image that it sees and keeps them; a narrow, padded image
    would give wrong ones. So it sees a square one now.
    """
    pool = MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=7, sampling_ratio=2)
    square = {str(i): torch.zeros(1, channels, 256 // s, 256 // s) for i, s in enumerate(strides)}
    pool(square, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], [(256, 256)])
    return pool
