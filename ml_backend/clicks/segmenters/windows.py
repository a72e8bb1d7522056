"""Square windows of a picture, as click networks see them: chosen, cut out, pasted back.

Pure arrays: no torch, no onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import Prompt

__all__ = [
    "DISC_RADIUS",
    "Box",
    "Window",
    "blend_logits",
    "box_around",
    "click_maps",
    "click_points",
    "crop_image",
    "crop_mask",
    "fit_window",
    "mean_agreement",
    "paste_logits",
    "windows_agree",
]

DISC_RADIUS = 5
"""Radius of the disc that marks a click, in pixels of the network's input."""
SAME_OBJECT_IOU = 0.4
"""From this IoU on, the answers in two windows count as the same object."""
SOFT_EDGE = 0.15
"""Width of the edge of a window, as a share of its side, over which its logits fade into those around it."""

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the picture in whole pixels. It reaches over the border if the picture is too small."""

    x0: int
    y0: int
    side: int


def fit_window(box: Box, side: float, hw: tuple[int, int]) -> Window:
    """The window of ``side`` pixels around the middle of box (x0, y0, x1, y1), moved into the picture if it
    fits.
    """
    size = max(8, min(round(side), max(hw)))

    def place(low: float, high: float, length: int) -> int:
        start = round((low + high) / 2 - size / 2)
        return (length - size) // 2 if size >= length else min(max(start, 0), length - size)

    return Window(place(box[0], box[2], hw[1]), place(box[1], box[3], hw[0]), size)


def _cut(array: npt.NDArray[np.generic], window: Window) -> npt.NDArray[np.generic]:
    """The window's pixels, zeros beyond the border."""
    height, width = array.shape[:2]
    x0, y0, x1, y1 = window.x0, window.y0, window.x0 + window.side, window.y0 + window.side
    inside = array[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if inside.shape[:2] == (window.side, window.side):
        return inside
    out = np.zeros((window.side, window.side, *array.shape[2:]), array.dtype)
    top, left = max(-y0, 0), max(-x0, 0)
    out[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return out


def crop_image(image: npt.NDArray[np.uint8], window: Window, size: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 -> the window as (size, size, 3) uint8; black beyond the border."""
    how = cv2.INTER_AREA if window.side > size else cv2.INTER_LINEAR
    out: npt.NDArray[np.uint8] = cv2.resize(_cut(image, window), (size, size), interpolation=how)
    return out


def crop_mask(mask: Mask, window: Window, size: int) -> Mask:
    """(H, W) bool -> the window as (size, size) bool, a pixel True where at least half of it is."""
    how = cv2.INTER_AREA if window.side > size else cv2.INTER_LINEAR
    cut = _cut(mask, window).astype(np.float32)
    return np.asarray(cv2.resize(cut, (size, size), interpolation=how) >= 0.5)


def click_points(prompt: Prompt, window: Window, size: int) -> npt.NDArray[np.float32]:
    """The clicks as (n, 3) float32 rows (x, y, positive), whole pixels of the network's input, those inside
    only.
    """
    scale = size / window.side
    rows = [
        (round((x + 0.5 - window.x0) * scale - 0.5), round((y + 0.5 - window.y0) * scale - 0.5), positive)
        for x, y, positive in prompt.points
    ]
    inside = [row for row in rows if 0 <= row[0] < size and 0 <= row[1] < size]
    return np.array(inside, np.float32).reshape(-1, 3)


def click_maps(
    points: npt.NDArray[np.float32], box: Box | None, window: Window, size: int
) -> npt.NDArray[np.float32]:
    """(3, size, size) float32 of 0/1: discs at positive clicks, discs at negative clicks, the filled box."""
    maps = np.zeros((3, size, size), np.uint8)
    for x, y, positive in points:
        cv2.circle(maps[0 if positive else 1], (int(x), int(y)), DISC_RADIUS, 1, thickness=-1)
    if box is not None:
        scale = size / window.side
        left, right = round((box[0] - window.x0) * scale), round((box[2] - window.x0) * scale)
        top, bottom = round((box[1] - window.y0) * scale), round((box[3] - window.y0) * scale)
        maps[2, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return maps.astype(np.float32)


def blend_logits(
    patch: npt.NDArray[np.float32],
    at: tuple[slice, slice],
    near: npt.NDArray[np.float32],
    window: Window,
    hw: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Lay the logits ``near`` of ``window`` over ``patch``; returns the new patch.

    ``patch`` holds the logits of the rows and columns ``at`` of the picture, ``near`` (size, size) those of
    the window; ``hw`` is the size of the picture. Towards the edge of the window ``near`` fades into
    ``patch``.
    """
    rows, columns, closer = paste_logits(near, window, hw)
    edge = max(1, round(SOFT_EDGE * window.side))
    weight = np.zeros((window.side, window.side), np.float32)
    weight[edge:-edge, edge:-edge] = 1
    weight = cv2.blur(weight, (edge, edge))
    top, left = max(rows.start, at[0].start), max(columns.start, at[1].start)
    bottom, right = min(rows.stop, at[0].stop), min(columns.stop, at[1].stop)
    closer = closer[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
    weight = weight[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0]
    out = patch.copy()
    part = out[top - at[0].start : bottom - at[0].start, left - at[1].start : right - at[1].start]
    part += weight * (closer - part)
    return out


def box_around(boxes: list[Box]) -> Box:
    """The smallest box (x0, y0, x1, y1) that holds all of them."""
    low = np.min(boxes, axis=0)
    high = np.max(boxes, axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def windows_agree(
    wide: npt.NDArray[np.float32],
    wide_window: Window,
    tight: npt.NDArray[np.float32],
    tight_window: Window,
) -> bool:
    """Whether the logits of two windows show the same object: IoU of at least SAME_OBJECT_IOU on the tighter
    window. Both are (size, size).
    """
    size = len(wide)
    scale = tight_window.side / wide_window.side

    def shift(tight_start: int, wide_start: int) -> float:
        return (tight_start - wide_start) * size / wide_window.side + 0.5 * scale - 0.5

    matrix = np.array(
        [
            [scale, 0, shift(tight_window.x0, wide_window.x0)],
            [0, scale, shift(tight_window.y0, wide_window.y0)],
        ]
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(wide, matrix, (size, size), flags=how, borderMode=cv2.BORDER_REPLICATE) > 0
    found = tight > 0
    union = int(np.count_nonzero(seen | found))
    return union > 0 and int(np.count_nonzero(seen & found)) >= SAME_OBJECT_IOU * union


def mean_agreement(masks: Sequence[Mask]) -> npt.NDArray[np.float64]:
    """(n,) mean IoU of each (H, W) mask with the others: 0 with an empty one, and for one that is alone."""
    boxes = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks]
    filled = [(x, y, x + w, y + h) for x, y, w, h in boxes if w]
    out = np.zeros(len(masks), np.float64)
    if len(masks) < 2 or not filled:
        return out
    x0, y0, x1, y1 = (int(v) for v in box_around(filled))
    parts = [mask[y0:y1, x0:x1] for mask in masks]
    for i, j in combinations(range(len(parts)), 2):
        common = int(np.count_nonzero(parts[i] & parts[j]))
        union = int(np.count_nonzero(parts[i] | parts[j]))
        out[[i, j]] += common / max(union, 1)
    return out / (len(masks) - 1)


def paste_logits(
    logits: npt.NDArray[np.float32], window: Window, hw: tuple[int, int]
) -> tuple[slice, slice, npt.NDArray[np.float32]]:
    """Rows and columns of the picture that the window covers, and the logits resized to those pixels."""
    how = cv2.INTER_AREA if window.side < len(logits) else cv2.INTER_LINEAR
    patch: npt.NDArray[np.float32] = cv2.resize(logits, (window.side, window.side), interpolation=how)
    top, left = max(window.y0, 0), max(window.x0, 0)
    bottom, right = min(window.y0 + window.side, hw[0]), min(window.x0 + window.side, hw[1])
    inside = patch[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0]
    return slice(top, bottom), slice(left, right), inside
