"""Masks to start from: the proposal under a click, and a mask as SAM's low-resolution logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.instances import Instances
from ml_backend.masks.rle import rle_hw

__all__ = [
    "Proposals",
    "box_iou",
    "box_of_mask",
    "keeps_shape",
    "label_under",
    "mask_logits",
    "proposal_beside",
    "proposal_for",
    "start_mask_from",
]

LOGIT_SCALE = 10.0
"""Logits of a sure pixel. SAM's own low-resolution logits lie in about this range."""

MIN_PROPOSAL = 0.3
"""Proposals whose score × quality is lower are not worth starting from."""

EXTEND_REACH = 0.2
"""How far beside a proposal a first click may lie to extend it, as a share of the square root of its area
(the side of a square as large). A click in the middle of a new object of that size lies more than twice as
far. Tuned on mushrooms with ``MOST_LOST_HULL``, see docs/clicks.md."""

MOST_LOST_HULL = 0.05
"""How much smaller the share of its convex hull that an extended mask fills may be than the proposal's."""

MIN_BOX_IOU = 0.6
"""A drawn box selects a proposal only if the IoU of the two boxes is at least this."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """What the current model found on one task: ``labels`` names the indices in ``instances.label``.

    ``whole`` are the labels that have one mask for all of a picture: each click on the picture corrects it.
    ``region_ids`` are the ids of their regions on the screen, one per instance; empty where none is shown.
    """

    version: str
    labels: tuple[str, ...]
    instances: Instances
    whole: frozenset[str] = frozenset()
    region_ids: tuple[str, ...] = ()


def box_of_mask(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of the True pixels of an (H, W) mask, x1 and y1 exclusive; zeros when empty."""
    rows = np.flatnonzero(mask.any(1))
    if len(rows) == 0:
        return 0.0, 0.0, 0.0, 0.0
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def start_mask_from(
    mask: npt.NDArray[np.bool_], *, logits: npt.NDArray[np.float32] | None = None, from_proposal: bool
) -> StartMask:
    """A StartMask with the box of its mask."""
    return StartMask(mask, logits, box_of_mask(mask), from_proposal)


def mask_logits(
    mask: npt.NDArray[np.bool_], *, size: int = 256, scale: float = LOGIT_SCALE, squeeze: bool = False
) -> npt.NDArray[np.float32]:
    """An (H, W) mask as (size, size) float32 logits of -scale … +scale in SAM's padded frame.

    The image's long side fills the frame, the rest is background; with ``squeeze`` both sides fill it, as in
    SAM 2. Edges carry the covered share of each cell.
    """
    height, width = mask.shape
    ratio = size / max(height, width)
    h, w = max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    if squeeze:
        h = w = size
    small = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    logits = np.full((size, size), -scale, np.float32)
    logits[:h, :w] = (2.0 * small - 1.0) * scale
    return logits


def proposal_for(
    proposals: Proposals | None, prompt: Prompt, hw: tuple[int, int]
) -> tuple[int, StartMask] | None:
    """The proposal that a prompt on an image of size ``hw`` is about, as (row, start mask), or None.

    Only proposals with the prompt's label count. For clicks it is the best mask (score × quality) under the
    *first* click, so that all clicks of a series start from the same proposal. For a box it is the proposal
    whose box has the highest IoU. Where a label has one mask for all of a picture, a click anywhere is about
    that mask: a part that it misses lies outside of it. A mask of another size belongs to an earlier image of
    the task and is skipped.
    """
    if proposals is None or prompt.label not in proposals.labels or len(proposals.instances) == 0:
        return None
    found = proposals.instances
    worth = found.score * found.quality
    usable = _usable(proposals, prompt.label, hw)
    if prompt.box is not None:
        overlap = np.where(usable, box_iou(found.box_xyxy, prompt.box), 0.0)
        best = int(overlap.argmax())
        return (best, _start_mask(found, best)) if overlap[best] >= MIN_BOX_IOU else None
    if not prompt.points:
        return None
    if prompt.label in proposals.whole:
        rows = _by_worth(worth, np.flatnonzero(usable))
        return (rows[0], _start_mask(found, rows[0])) if rows else None
    x, y, _ = prompt.points[0]
    box = found.box_xyxy
    usable &= (box[:, 0] <= x) & (x <= box[:, 2]) & (box[:, 1] <= y) & (y <= box[:, 3])
    for row in _by_worth(worth, np.flatnonzero(usable)):
        start_mask = _start_mask(found, row)
        if start_mask.mask[int(y), int(x)]:
            return row, start_mask
    return None


def proposal_beside(
    proposals: Proposals | None, prompt: Prompt, hw: tuple[int, int]
) -> tuple[int, StartMask] | None:
    """The nearest proposal that a first click beside it may be meant to extend: (row, start mask), or None.

    That click must be positive, lie on no proposal of the label (ask ``proposal_for`` first), and be within
    ``EXTEND_REACH`` of this one. Whether it does extend it shows in the mask: see ``keeps_shape``.
    """
    if proposals is None or prompt.label not in proposals.labels or prompt.box is not None:
        return None
    if not prompt.points or not prompt.points[0][2]:
        return None
    found = proposals.instances
    x, y, _ = prompt.points[0]
    box = found.box_xyxy
    gap = np.hypot(
        np.maximum(0, np.maximum(box[:, 0] - x, x - box[:, 2])),
        np.maximum(0, np.maximum(box[:, 1] - y, y - box[:, 3])),
    )
    side = np.sqrt(np.maximum(0, (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])))
    best: tuple[float, int, StartMask] | None = None
    for row in np.flatnonzero(_usable(proposals, prompt.label, hw) & (gap <= EXTEND_REACH * side)):
        start_mask = _start_mask(found, int(row))
        ys, xs = np.nonzero(start_mask.mask)
        distance = float(np.hypot(xs - int(x), ys - int(y)).min()) if len(xs) else math.inf
        if distance <= EXTEND_REACH * math.sqrt(len(xs)) and (best is None or distance < best[0]):
            best = distance, int(row), start_mask
    return None if best is None else best[1:]


def keeps_shape(proposal: npt.NDArray[np.bool_], extended: npt.NDArray[np.bool_]) -> bool:
    """Whether an extended (H, W) mask fills its convex hull nearly as well as the proposal did.

    A part that was missed fills a gap. A second object beside the proposal makes a waist between the two.
    """
    return _hull_share(extended) >= _hull_share(proposal) - MOST_LOST_HULL


def _hull_share(mask: npt.NDArray[np.bool_]) -> float:
    """Area of a mask as a share of that of its convex hull; 0 for an empty one."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return 0.0
    hull = cv2.convexHull(np.vstack(outlines))
    # the hull goes through the middles of pixels: by Pick's theorem half its outline is missing, and one
    area = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1
    return float(np.count_nonzero(mask)) / area


def label_under(proposals: Proposals | None, prompt: Prompt, hw: tuple[int, int]) -> str:
    """Label of the best proposal that a prompt without a label is about; empty when there is none."""
    if proposals is None:
        return ""
    found = [
        (float(proposals.instances.score[row] * proposals.instances.quality[row]), label)
        for label in proposals.labels
        if (start := proposal_for(proposals, replace(prompt, label=label), hw)) is not None
        for row in (start[0],)
    ]
    return max(found, default=(0.0, ""))[1]


def _usable(proposals: Proposals, label: str, hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which proposals have the label, the size of the image, and are worth starting from."""
    found = proposals.instances
    usable = (found.label == proposals.labels.index(label)) & (found.score * found.quality >= MIN_PROPOSAL)
    usable &= np.array([rle_hw(rle) == hw for rle in found.rle], bool)
    return np.asarray(usable, np.bool_)


def _by_worth(worth: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]) -> Sequence[int]:
    return [int(r) for r in rows[np.argsort(-worth[rows], kind="stable")]]


def _start_mask(found: Instances, row: int) -> StartMask:
    rle = found.rle[row]
    mask = coco_mask.decode(rle).astype(np.bool_)
    return start_mask_from(mask, from_proposal=True)


def box_iou(
    boxes: npt.NDArray[np.float32], box: tuple[float, float, float, float]
) -> npt.NDArray[np.float64]:
    """(n,) IoU of boxes (n, 4) with one box, all xyxy in pixels; 0 where both are empty."""
    x0, y0, x1, y1 = box
    w = np.clip(np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0), 0, None)
    h = np.clip(np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0), 0, None)
    inter = (w * h).astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = area.astype(np.float64) + (x1 - x0) * (y1 - y0) - inter
    overlap: npt.NDArray[np.float64] = inter / np.maximum(union, 1e-9)
    return overlap
