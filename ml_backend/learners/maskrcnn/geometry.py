"""Choose input scale, anchors and the limit on detections from the sizes of the training objects.

A short training from random weights cannot learn objects whose sizes are far from the anchors. So scale and
anchors are fitted to the training masks. Images are scaled until the typical object covers enough feature
cells, and the anchors follow the quantiles of the scaled boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.examples import Example

__all__ = ["BoxSizes", "Geometry", "fit_geometry", "measure"]

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True, eq=False)
class BoxSizes:
    """Boxes of a training set: ``wh`` (n, 2) float, pixels; ``per_image`` (m,) int, instances per image;
    ``image_hw`` (m, 2) int (images without instances are left out of ``image_hw``)."""

    wh: npt.NDArray[np.float64]
    per_image: npt.NDArray[np.int64]
    image_hw: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Fitted geometry, stored with the model.

    Attributes
    ----------
    scale : network pixels per image pixel
    anchor_sizes : per pyramid level used by the proposal network, anchor sides in network pixels
    anchor_ratios : height / width of the anchors
    max_detections : instances kept per image
    """

    scale: float
    anchor_sizes: tuple[tuple[float, ...], ...]
    anchor_ratios: tuple[float, ...]
    max_detections: int


def measure(examples: Sequence[Example]) -> BoxSizes:
    """Box sizes of all instances, from their RLEs."""
    boxes = [np.asarray(coco_mask.toBbox([dict(r) for r in e.rle])).reshape(-1, 4) for e in examples if e.rle]
    return BoxSizes(
        wh=np.concatenate([b[:, 2:] for b in boxes]) if boxes else np.zeros((0, 2)),
        per_image=np.asarray([len(e.rle) for e in examples], np.int64),
        image_hw=np.asarray([e.rle[0]["size"] for e in examples if e.rle], np.int64).reshape(-1, 2),
    )


def fit_geometry(
    sizes: BoxSizes,
    *,
    target_px: float = 28.0,
    small_px: float = 12.0,
    max_side: int = 640,
    min_side: int = 256,
    sizes_per_level: int = 2,
    detection_cap: int | None = None,
) -> Geometry:
    """Fit scale, anchors and cap.

    The scale is the larger of two: one brings the median object to ``target_px``, the other brings the 10 %
    quantile to ``small_px``. Limits: the short side of the median image is at least ``min_side``, its long
    side at most ``max_side``, and no image is enlarged more than 3 times.
    """
    wh = sizes.wh[(sizes.wh > 0).all(axis=1)]
    if not len(wh):
        wh = np.full((1, 2), 32.0)
    side = np.sqrt(wh.prod(axis=1))
    hw = np.median(sizes.image_hw, axis=0) if len(sizes.image_hw) else np.array([320.0, 320.0])
    low, middle = np.quantile(side, [0.1, 0.5])
    scale = max(target_px / middle, small_px / low, min_side / hw.min())
    scale = float(min(scale, max(1.0, max_side / hw.max()), max_side / hw.max() * 1.001, 3.0))
    anchors = _anchor_sizes(side * scale, sizes_per_level)
    ratios = np.quantile(np.clip(wh[:, 1] / wh[:, 0], 1 / 3, 3), [0.15, 0.5, 0.85])
    cap = detection_cap or int(np.clip(1.5 * sizes.per_image.max(initial=1), 50, 400))
    return Geometry(round(scale, 4), anchors, tuple(float(round(r, 3)) for r in ratios), cap)


def _anchor_sizes(side: npt.NDArray[np.float64], per_level: int) -> tuple[tuple[float, ...], ...]:
    """Geometric sizes over the central 96 % of the objects; as few levels as reach the largest of them.

    The proposal head is one convolution for all levels, hence the same number of sizes on each. A level
    of stride s sees objects up to about 12 s well; larger ones need the next level.
    """
    low, high = np.quantile(side, [0.02, 0.98])
    low = max(low, 4.0)
    high = max(high, low * 1.5)
    levels = 1
    while levels < len(STRIDES) and 12 * STRIDES[levels - 1] < high:
        levels += 1
    count = max(per_level, 3) if levels == 1 else per_level
    grid = np.geomspace(low * 1.15, high / 1.15, levels * count)
    return tuple(tuple(float(round(v, 1)) for v in grid[i * count : (i + 1) * count]) for i in range(levels))
