"""Training samples of the click network: a window around a true mask, a start, and clicks as a person might
make them.

The recipe is iterative training with mask guidance (RITM, Sofiiuk et al. 2021). Each sample has a random
start. The training loop then adds clicks where the network's own mask is wrong (``next_click``). A start is
a first click, a few clicks, a box, or a degraded mask with a click that corrects it, which teaches
corrections of proposals. Corrections of large objects are also shown in smaller windows, because the
segmenter uses such windows for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.caches import ByteCache
from ml_backend.clicks.evaluation.robots import inner_distance
from ml_backend.clicks.segmenters.input_maps import compute_input_maps
from ml_backend.clicks.segmenters.windows import DISC_RADIUS, Window, crop_image, crop_mask, fit_window
from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.images.decode import read_image

__all__ = ["Sample", "Sampler", "degraded_mask", "next_click"]

Mask = npt.NDArray[np.bool_]
MIN_AREA_PX = 12
_FIRST, _CLICK, _CLICKS, _DEGRADED, _BOX = 0.25, 0.52, 0.60, 0.74, 0.78
"""Upper ends of the ranges of a random number in 0..1 that chooses the start: below 0.25 a click in the
window of a first click, below 0.52 a click in a window around the object, then several clicks, a degraded
mask, a box; from 0.78 on a correction in a smaller window.
"""
_CLOSE_FROM_PX = 400
"""From this area on corrections get a smaller window; smaller objects fill the usual window anyway."""


@dataclass(slots=True, eq=False)
class Sample:
    """One training sample at the network's size S; ``next_click`` adds to it in place.

    image (S, S, 3) uint8; target (S, S) bool; clicks (3, S, S) float32; previous (S, S) bool.
    """

    image: npt.NDArray[np.uint8]
    target: Mask
    clicks: npt.NDArray[np.float32]
    previous: Mask
    points: list[tuple[int, int]] = field(default_factory=list)

    def input_maps(self) -> npt.NDArray[np.float32]:
        """(N_INPUT_MAPS, S, S) float32 of the clicks and the previous mask as they are now."""
        rows = [(x, y, bool(self.target[y, x])) for x, y in self.points]
        points = np.array(rows, np.float32).reshape(-1, 3)
        return compute_input_maps(self.image, self.clicks, self.previous, points)

    def add(self, x: int, y: int, *, positive: bool) -> None:
        cv2.circle(self.clicks[0 if positive else 1], (x, y), DISC_RADIUS, 1.0, thickness=-1)
        self.points.append((x, y))


def _spot(wrong: Mask, rng: np.random.Generator, *, exact: bool) -> tuple[int, int, float]:
    """A random pixel (x, y) well inside ``wrong``, or its inner-most pixel if ``exact``; and the depth of the
    inner-most pixel.
    """
    distance = inner_distance(wrong)
    depth = float(distance.max())
    inner = np.flatnonzero(distance.ravel() >= 0.5 * depth)
    at = int(distance.argmax()) if exact else int(rng.choice(inner))
    y, x = divmod(at, wrong.shape[1])
    return x, y, depth


def next_click(sample: Sample, predicted: Mask, rng: np.random.Generator) -> None:
    """Feed ``predicted`` (S, S) back and click where it is wrong, in place; nothing if it is right."""
    sample.previous = predicted
    missing, extra = sample.target & ~predicted, predicted & ~sample.target
    for x, y in sample.points:
        missing[y, x] = extra[y, x] = False
    exact = bool(rng.random() < 0.5)
    found = [
        (*_spot(wrong, rng, exact=exact), positive)
        for wrong, positive in ((extra, False), (missing, True))
        if wrong.any()
    ]
    if found:
        x, y, _, positive = max(found, key=lambda item: item[2])
        sample.add(x, y, positive=positive)


def degraded_mask(mask: Mask, rng: np.random.Generator) -> Mask:
    """A mask as a weak model might propose it: moved, scaled, grown or shrunk, with parts added and cut
    off.
    """
    size = float(np.sqrt(mask.sum()))
    out = mask.astype(np.uint8)
    ys, xs = np.nonzero(mask)
    cx, cy = float(xs.mean()), float(ys.mean())
    zoom = float(np.exp(rng.normal(0, 0.12)))
    dx, dy = rng.normal(0, 0.08 * size, 2)
    matrix = np.array([[zoom, 0, cx - zoom * cx + dx], [0, zoom, cy - zoom * cy + dy]])
    out = cv2.warpAffine(out, matrix, (mask.shape[1], mask.shape[0]), flags=cv2.INTER_NEAREST)
    radius = int(abs(rng.normal(0, 0.05 * size)))
    if radius:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        out = cv2.dilate(out, kernel) if rng.random() < 0.5 else cv2.erode(out, kernel)
    for _ in range(rng.integers(0, 3)):
        edge = int(rng.integers(len(xs)))
        axes = (max(1, int(size * rng.uniform(0.05, 0.3))), max(1, int(size * rng.uniform(0.05, 0.3))))
        at = (int(xs[edge] + rng.normal(0, 0.2 * size)), int(ys[edge] + rng.normal(0, 0.2 * size)))
        value = int(rng.integers(2))
        cv2.ellipse(out, at, axes, float(rng.uniform(0, 180)), 0, 360, value, thickness=-1)
    return np.asarray(out, np.bool_)


class Sampler:
    """Draws samples from examples: images with p ∝ √instances, then an instance. Decoded images are kept in
    memory up to ``cache_bytes``. BadInput when no example holds a mask of at least ``MIN_AREA_PX`` pixels.
    """

    def __init__(
        self, examples: Sequence[Example], *, size: int, seed: int, cache_bytes: int = 1 << 30
    ) -> None:
        self.size = size
        self.rng = np.random.default_rng(seed)
        self._kept: ByteCache[int, npt.NDArray[np.uint8]] = ByteCache(cache_bytes, lambda image: image.nbytes)
        self._examples: list[tuple[Example, list[int]]] = []
        sides: list[float] = []
        for example in examples:
            # one at a time: pycocotools.mask.area of a list fails beyond 255 masks
            areas = np.array([int(coco_mask.area(rle)) for rle in example.rle])
            usable = [int(i) for i in np.flatnonzero(areas >= MIN_AREA_PX)]
            if usable:
                boxes = coco_mask.toBbox([example.rle[i] for i in usable])
                sides.extend(np.maximum(boxes[:, 2], boxes[:, 3]).tolist())
                self._examples.append((example, usable))
        if not self._examples:
            raise BadInput(f"no example holds a mask of {MIN_AREA_PX} pixels or more", field="train")
        self.first_side = max(32.0, 1.6 * float(np.quantile(sides, 0.7)))
        """Side of the window for a first click. Right for most objects; widened if it cuts the object."""
        weights = np.sqrt([len(usable) for _, usable in self._examples])
        self._p = weights / weights.sum()

    def _image(self, index: int) -> npt.NDArray[np.uint8]:
        image = self._kept.get(index)
        if image is None:
            image = read_image(self._examples[index][0].image)
            self._kept.put(index, image)
        return image

    def _pick(self) -> tuple[npt.NDArray[np.uint8], Mask]:
        """A picture and one of its masks."""
        index = int(self.rng.choice(len(self._examples), p=self._p))
        example, usable = self._examples[index]
        mask = coco_mask.decode(example.rle[int(self.rng.choice(usable))]).astype(np.bool_)
        return self._image(index), mask

    def _first_side(self, mask: Mask) -> float:
        """Side of the window in which the first click on ``mask`` is seen."""
        return self.first_side * float(self.rng.uniform(0.85, 1.2))

    def draw(self, count: int) -> list[Sample]:
        return [self._draw() for _ in range(count)]

    def _draw(self) -> Sample:
        rng = self.rng
        while True:
            image, mask = self._pick()
            kind = rng.random()
            if kind >= _BOX and np.count_nonzero(mask) >= _CLOSE_FROM_PX:
                sample = self._closely(image, mask)
                if sample is not None:
                    return sample
                continue
            kind = kind if kind < _BOX else rng.uniform(0, _BOX)
            window = self._window(mask, first_look=kind < _FIRST)
            target = crop_mask(mask, window, self.size)
            if target.sum() >= 4:
                break
        sample = self._sample(image, window, target, np.zeros_like(target))
        if kind < _CLICK:
            x, y, _ = _spot(sample.target, rng, exact=bool(rng.random() < 0.5))
            sample.add(x, y, positive=True)
        elif kind < _CLICKS:
            self._random_clicks(sample)
        elif kind < _DEGRADED:
            next_click(sample, degraded_mask(sample.target, rng), rng)
        else:
            self._box(sample)
        return sample

    def _sample(self, picture: npt.NDArray[np.uint8], window: Window, target: Mask, previous: Mask) -> Sample:
        """The window of ``picture`` without clicks, with random rotation, mirroring and brightness."""
        rng = self.rng
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def turned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
            array = np.rot90(array, turns)
            return np.ascontiguousarray(array[:, ::-1] if flip else array)

        image = turned(crop_image(picture, window, self.size))
        gain = np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.04, 3))
        lit = image.astype(np.float32) * gain + rng.normal(0, 8)
        return Sample(
            np.clip(lit, 0, 255).astype(np.uint8),
            np.asarray(turned(target), np.bool_),
            np.zeros((3, self.size, self.size), np.float32),
            np.asarray(turned(previous), np.bool_),
        )

    def _closely(self, picture: npt.NDArray[np.uint8], mask: Mask) -> Sample | None:
        """One error of a degraded mask, clicked in a small window around it; None if all errors are tiny."""
        rng = self.rng
        degraded = degraded_mask(mask, rng)
        wrong = degraded != mask
        distance = inner_distance(wrong)
        inner = np.flatnonzero(distance.ravel() >= max(2.0, 0.4 * float(distance.max())))
        if not len(inner):
            return None
        y, x = divmod(int(rng.choice(inner)), mask.shape[1])
        same = (wrong & (degraded == degraded[y, x])).astype(np.uint8)
        _, parts = cv2.connectedComponents(same, connectivity=8)
        x0, y0, width, height = cv2.boundingRect((parts == parts[y, x]).astype(np.uint8))
        box, extent = (x0, y0, x0 + width, y0 + height), float(max(width, height))
        if extent > 8 * distance[y, x]:  # along much of the edge: a person corrects it piece by piece
            box, extent = (x, y, x + 1, y + 1), 8 * float(distance[y, x])
        side = max(24.0, extent * rng.uniform(1.5, 3.5))
        window = fit_window(box, side, (mask.shape[0], mask.shape[1]))
        target, previous = (crop_mask(m, window, self.size) for m in (mask, degraded))
        if (target == previous).all():
            return None
        sample = self._sample(picture, window, target, previous)
        next_click(sample, sample.previous, rng)
        return sample

    def _window(self, mask: Mask, *, first_look: bool) -> Window:
        rng = self.rng
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        side = float(max(width, height))
        if first_look:
            side = self._first_side(mask)
            cx, cy, _ = _spot(mask, rng, exact=bool(rng.random() < 0.5))
            return fit_window((cx, cy, cx + 1, cy + 1), side, (mask.shape[0], mask.shape[1]))
        window = max(side * rng.uniform(1.3, 2.6), 24.0)
        dx, dy = rng.uniform(-0.5, 0.5, 2) * max(0.0, window - side * 1.1)
        box = (x + dx, y + dy, x + width + dx, y + height + dy)
        return fit_window(box, window, (mask.shape[0], mask.shape[1]))

    def _random_clicks(self, sample: Sample) -> None:
        rng = self.rng
        for _ in range(rng.integers(1, 5)):
            x, y, _ = _spot(sample.target, rng, exact=False)
            sample.add(x, y, positive=True)
        away = inner_distance(~sample.target)
        near = np.flatnonzero((away.ravel() >= 2) & (away.ravel() <= 0.3 * self.size))
        for at in rng.choice(near, size=min(int(rng.integers(0, 4)), len(near)), replace=False):
            sample.add(int(at) % self.size, int(at) // self.size, positive=False)

    def _box(self, sample: Sample) -> None:
        x, y, width, height = cv2.boundingRect(sample.target.view(np.uint8))
        jitter = self.rng.normal(0, 0.05, 4) * (width, height, width, height)
        x0, y0 = round(x + jitter[0]), round(y + jitter[1])
        x1, y1 = round(x + width + jitter[2]), round(y + height + jitter[3])
        sample.clicks[2, max(y0, 0) : max(y1, 1), max(x0, 0) : max(x1, 1)] = 1.0
