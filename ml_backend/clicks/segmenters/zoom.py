"""What every click network shares around the network itself: look at a window, paste back, honour the clicks.

A click network sees a square window of the picture, resized to its own side: RGB, discs where clicks and
box are, and the previous mask. Large pictures and small objects then cost the same. The window is chosen
from what is known of the object (previous mask, box, clicks; the usual object size for the very first
click) and chosen anew, up to
``MAX_REFITS`` times, when the answer shows that it was too wide or cut the object (the zoom-in of RITM and
FocalClick).

Pure arrays: no torch, no onnxruntime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickResult, Embedding, Prior, Prompt
from ml_backend.errors import BadPrompt

__all__ = [
    "DISC_RADIUS",
    "Window",
    "ZoomSegmenter",
    "click_maps",
    "click_points",
    "crop_image",
    "crop_mask",
    "fit_window",
]

DISC_RADIUS = 5
"""Radius of the disc that marks a click, in pixels of the network's input."""
MARGIN = 1.8
MAX_REFITS = 2
AGREEMENT = 0.4
FOCUS, FOCUS_GAIN, FOCUS_RIM = 2.5, 0.6, 0.15
"""A correction is looked at again in a window of ``FOCUS`` times its extent where that is at most
``FOCUS_GAIN`` of the window; the closer look counts but for a rim of this share of its side.
"""

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the picture in whole pixels; it may reach over the border where the picture is too
    small.
    """

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


class ZoomSegmenter(ABC):
    """A ClickSegmenter around one network call. ``segment`` is pure; subclasses lock their device in
    ``_logits``.
    """

    name: str
    encoder: str
    device: str = "cpu"
    nbytes: int = 0
    persist: bool = False
    """Embeddings are pictures, which lie in the image cache already."""
    size: int
    """Side of the network's input, in pixels."""
    first_side: float
    """Side of the window for a first click with nothing else known, in pixels of the picture."""
    min_side: float = 32.0

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """The picture itself: the network looks at windows of it, so there is nothing to compute ahead."""
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    @abstractmethod
    def _logits(
        self,
        image: npt.NDArray[np.uint8],
        clicks: npt.NDArray[np.float32],
        previous: npt.NDArray[np.float32],
        points: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """The network on one window -> (size, size) logits; above 0 is object.

        image (size, size, 3) uint8; clicks (3, size, size) and previous (size, size) of 0/1; points (n, 3)
        the clicks inside the window as (x, y, positive) in its pixels, for networks that draw their own maps.
        """

    def segment(self, embedding: Embedding, prompt: Prompt, prior: Prior | None) -> ClickResult:
        """The mask for the prompt (k = 1). The prior's own mask when there is neither click nor box.

        Raises BadPrompt when there is nothing to go by.
        """
        image = np.asarray(embedding.arrays["pixels"], np.uint8)
        if prior is not None and not prior.mask.any():
            prior = None
        if not prompt.points and prompt.box is None and prior is None:
            raise BadPrompt("a click, a box or a mask to start from is needed", field="prompt")
        window = self._first_window(embedding.hw, prompt, prior)
        logits = self._look(image, prompt, prior, window)
        if not prompt.points and prompt.box is None and prior is not None:
            return _result(prior.mask, window, logits)
        for _ in range(MAX_REFITS):
            better = _refit(logits, window, embedding.hw, prompt, self.min_side)
            if better is None:
                break
            again = self._look(image, prompt, prior, better)
            tighter = better.side < window.side
            if tighter and prior is None and not _agree(logits, window, again, better):
                break  # the closer look should refine the answer; here it lost what gave it its extent
            window, logits = better, again
        mask = np.zeros(embedding.hw, np.bool_)
        rows, columns, patch = _patch(logits, window, embedding.hw)
        if prior is not None and prompt.points:
            patch = self._sharpen(image, prompt, prior, window.side, patch, (rows, columns))
        previous = None if prior is None else prior.mask[rows, columns]
        inside = _shifted(prompt, embedding.hw, rows, columns)
        mask[rows, columns] = honour_clicks(patch, inside, previous)
        return _result(mask, window, logits)

    def _sharpen(
        self,
        image: npt.NDArray[np.uint8],
        prompt: Prompt,
        prior: Prior,
        side: int,
        patch: npt.NDArray[np.float32],
        at: tuple[slice, slice],
    ) -> npt.NDArray[np.float32]:
        """``patch``, the logits of the rows and columns ``at``, with a closer look at what the last click
        changed, where that is a small part of the window of ``side`` pixels.
        """
        rows, columns = at
        x, y, positive = prompt.points[-1]
        column, row = int(x) - columns.start, int(y) - rows.start
        if not (0 <= row < patch.shape[0] and 0 <= column < patch.shape[1]):
            return patch
        before = prior.mask[rows, columns]
        if bool(before[row, column]) == positive:
            return patch  # nothing was wrong there
        changed = ((patch > 0) != before).astype(np.uint8)
        changed[row, column] = 1
        _, parts = cv2.connectedComponents(changed, connectivity=8)
        x0, y0, x1, y1 = _box(parts == parts[row, column])
        box = (x0 + columns.start, y0 + rows.start, x1 + columns.start, y1 + rows.start)
        hw = (prior.mask.shape[0], prior.mask.shape[1])
        closer = fit_window(box, max(FOCUS * max(x1 - x0, y1 - y0), self.min_side), hw)
        if closer.side > FOCUS_GAIN * side:
            return patch
        return _blend(patch, at, self._look(image, prompt, prior, closer), closer, hw)

    def _first_window(self, hw: tuple[int, int], prompt: Prompt, prior: Prior | None) -> Window:
        boxes = [(x, y, x + 1, y + 1) for x, y, positive in prompt.points if positive]
        if prompt.box is not None:
            boxes.append(prompt.box)
        if prior is not None:
            boxes.append(_box(prior.mask))
        if not boxes:  # negative clicks alone: nothing can be inside, look around them
            boxes = [(x, y, x + 1, y + 1) for x, y, _ in prompt.points]
        union = _union(boxes)
        side = max(union[2] - union[0], union[3] - union[1]) * MARGIN
        known = prior is not None or prompt.box is not None
        return fit_window(union, max(side, self.min_side if known else self.first_side), hw)

    def _look(
        self, image: npt.NDArray[np.uint8], prompt: Prompt, prior: Prior | None, window: Window
    ) -> npt.NDArray[np.float32]:
        previous: npt.NDArray[np.float32] = np.zeros((self.size, self.size), np.float32)
        if prior is not None:
            previous = crop_mask(prior.mask, window, self.size).astype(np.float32)
        points = click_points(prompt, window, self.size)
        maps = click_maps(points, prompt.box, window, self.size)
        return self._logits(crop_image(image, window, self.size), maps, previous, points)


def _blend(
    patch: npt.NDArray[np.float32],
    at: tuple[slice, slice],
    near: npt.NDArray[np.float32],
    window: Window,
    hw: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """``patch`` (logits of the rows and columns ``at``) with the closer look ``near`` of ``window`` put over
    it, softly towards its rim.
    """
    rows, columns, closer = _patch(near, window, hw)
    rim = max(1, round(FOCUS_RIM * window.side))
    weight = np.zeros((window.side, window.side), np.float32)
    weight[rim:-rim, rim:-rim] = 1
    weight = cv2.blur(weight, (rim, rim))
    top, left = max(rows.start, at[0].start), max(columns.start, at[1].start)
    bottom, right = min(rows.stop, at[0].stop), min(columns.stop, at[1].stop)
    closer = closer[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
    weight = weight[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0]
    out = patch.copy()
    part = out[top - at[0].start : bottom - at[0].start, left - at[1].start : right - at[1].start]
    part += weight * (closer - part)
    return out


def _union(boxes: list[Box]) -> Box:
    low = np.min(boxes, axis=0)
    high = np.max(boxes, axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def _box(mask: Mask) -> Box:
    x, y, width, height = cv2.boundingRect(
        mask.view(np.uint8) if mask.flags.c_contiguous else mask.astype(np.uint8)
    )
    return float(x), float(y), float(x + width), float(y + height)


def _refit(
    logits: npt.NDArray[np.float32], window: Window, hw: tuple[int, int], prompt: Prompt, min_side: float
) -> Window | None:
    """A better window for what was found, or None when this one is good."""
    found = logits > 0
    if not found.any():
        return None
    size = len(found)
    scale = window.side / size
    x0, y0, x1, y1 = _box(found)
    cut = (
        (x0 == 0 and window.x0 > 0)
        or (y0 == 0 and window.y0 > 0)
        or (x1 == size and window.x0 + window.side < hw[1])
        or (y1 == size and window.y0 + window.side < hw[0])
    )
    box = (window.x0 + x0 * scale, window.y0 + y0 * scale, window.x0 + x1 * scale, window.y0 + y1 * scale)
    box = _union([box, *((x, y, x + 1, y + 1) for x, y, positive in prompt.points if positive)])
    if cut:
        wider = fit_window(box, window.side * 1.6, hw)
        return wider if wider.side > window.side else None
    tight = fit_window(box, max(max(box[2] - box[0], box[3] - box[1]) * MARGIN, min_side), hw)
    return tight if tight.side < 0.75 * window.side else None


def _agree(
    wide: npt.NDArray[np.float32],
    wide_window: Window,
    tight: npt.NDArray[np.float32],
    tight_window: Window,
) -> bool:
    """Whether two looks found the same thing: IoU of at least AGREEMENT on the tighter window."""
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
    return union > 0 and int(np.count_nonzero(seen & found)) >= AGREEMENT * union


def _patch(
    logits: npt.NDArray[np.float32], window: Window, hw: tuple[int, int]
) -> tuple[slice, slice, npt.NDArray[np.float32]]:
    """Rows and columns of the picture that the window covers, and the logits resized to those pixels."""
    how = cv2.INTER_AREA if window.side < len(logits) else cv2.INTER_LINEAR
    patch: npt.NDArray[np.float32] = cv2.resize(logits, (window.side, window.side), interpolation=how)
    top, left = max(window.y0, 0), max(window.x0, 0)
    bottom, right = min(window.y0 + window.side, hw[0]), min(window.x0 + window.side, hw[1])
    inside = patch[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0]
    return slice(top, bottom), slice(left, right), inside


def _shifted(prompt: Prompt, hw: tuple[int, int], rows: slice, columns: slice) -> Prompt:
    """The prompt's clicks that fall into the patch, in its pixels; clicks on the far border belong to its
    last.
    """
    points = []
    for x, y, positive in prompt.points:
        column, row = min(max(int(x), 0), hw[1] - 1), min(max(int(y), 0), hw[0] - 1)
        if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
            points.append((float(column - columns.start), float(row - rows.start), positive))
    return Prompt(tuple(points), None, prompt.label)


def honour_clicks(full: npt.NDArray[np.float32], prompt: Prompt, previous: Mask | None) -> Mask:
    """Logits (H, W) -> mask that contradicts no click, where one can be had.

    A positive click left outside brings in the pixels around it that look at least as much like the object
    as the clicked one does; a negative click left inside takes out those that look at least as little like
    it; both no further than half way to the nearest opposite click. Parts with no positive click in them
    go, unless they belong to the mask started from (an object seen in two pieces) or only a box was given.
    """
    height, width = full.shape
    mask = full > 0
    pixels = [
        (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1), p) for x, y, p in prompt.points
    ]
    for x, y, positive in pixels:
        if mask[y, x] == positive:
            continue
        others = [np.hypot(x - u, y - v) for u, v, p in pixels if p != positive]
        reach = max(1.0, min([0.5 * float(d) for d in others] + [0.1 * float(np.sqrt(mask.sum() + 1)) + 2.0]))
        _flip_around(mask, full, x, y, reach, positive=positive)
    for (
        x,
        y,
        positive,
    ) in pixels:  # the clicked pixels themselves always; a later click overrules an earlier one
        mask[y, x] = positive
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    wanted = [parts[y, x] for x, y, positive in pixels if positive and mask[y, x]]
    if count > 2 and wanted:
        keep = np.zeros(count, bool)
        keep[wanted] = True
        if previous is not None:
            overlap = np.bincount(parts[previous & mask], minlength=count)
            keep |= overlap > 0.5 * np.bincount(parts.ravel(), minlength=count)
        keep[0] = False
        mask = keep[parts]
    return np.asarray(mask, np.bool_)


def _flip_around(
    mask: Mask, full: npt.NDArray[np.float32], x: int, y: int, reach: float, *, positive: bool
) -> None:
    """Set the pixels within ``reach`` of (x, y) that look like the clicked one, connected to it, in place."""
    r = int(np.ceil(reach))
    top, left = max(y - r, 0), max(x - r, 0)
    patch = full[top : y + r + 1, left : x + r + 1]
    ys, xs = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    near = (xs - x) ** 2 + (ys - y) ** 2 <= reach**2
    alike = patch >= full[y, x] - 0.5 if positive else patch <= full[y, x] + 0.5
    _, parts = cv2.connectedComponents((near & alike).astype(np.uint8), connectivity=4)
    mask[top : y + r + 1, left : x + r + 1][parts == parts[y - top, x - left]] = positive


def _result(mask: Mask, window: Window, logits: npt.NDArray[np.float32]) -> ClickResult:
    """The mask with its expected IoU under the network's own pixel probabilities: E|P∩M| / E|P∪M|."""
    probability = 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))
    inside = crop_mask(mask, window, len(logits))
    common, rest = float(probability[inside].sum()), float(probability[~inside].sum())
    union = float(inside.sum()) + rest
    iou = common / union if union > 0 else 0.0
    return ClickResult(mask[None].copy(), np.array([min(max(iou, 0.0), 1.0)], np.float32), None)
