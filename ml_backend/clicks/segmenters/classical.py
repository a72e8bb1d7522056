"""Click segmentation without any weights: the default, good enough to be useful on the first day.

* First click: the closed path of strongest edges around it (``edge_path.outline``), polished by colour.
* Box: GrabCut inside it.
* Every further click corrects the mask before it, near the click only. The region outlined around the click
  is added to the mask or taken from it; the edge of the present mask counts as an edge there. A click very
  close to the edge moves the edge as far as the colour agrees. A correction far from the edge also lets
  colour move the rest of the edge, by the same distance.
* A proposal is corrected in the same way. But if one click in its middle finds an outline of the same object
  that obeys all clicks, that outline is taken. With no click the proposal itself is the answer.

Work happens in a window around the prompt at a bounded size, so the time hardly depends on the size of the
picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.edge_path import Mask, outline, polish
from ml_backend.clicks.segmenters.mask_confidence import expected_iou
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.errors import BadPrompt
from ml_backend.settings import BackendSettings

__all__ = ["ClassicalSegmenter", "from_settings"]

_SIDE = 640
"""Longest side of a window in pixels; larger windows are reduced to it."""
_MASK_EDGE = 60.0
"""Jump at the present mask's edge, in units of 8-bit Lab, when a correction is looked for."""
_FIRST_REACH = 0.6
"""Farthest that a first outline may be from the click, as a share of the longer side of the window."""
_BAND_NEW, _BAND_FIX = 0.5, 0.35
"""Half width of the band in which colour decides, as a share of the region's radius."""
_REACH, _MORE_PX, _NEAR = 2.0, 0.5, 0.8
"""A correction reaches between ``_NEAR`` and ``_REACH`` times as far as the click is from the edge of the
present mask, plus ``_MORE_PX``. People click in the middle of what is wrong, and most of that lies along
the edge.
"""
_CORE = 0.7
"""A correction always covers a disc of this share of the click's distance from that edge."""
_ANEW = 0.35
"""With one object click so far, let d be its distance from a new background click. If the background click
lies deeper inside the mask than this share of d, the first guess had the wrong scale. It is made again, and
must leave the background click outside.
"""
_SAME_OBJECT = 0.4
"""From this IoU on, an outline found inside a proposal counts as the same object."""
_REFIT_FROM_PX, _REFIT_SIDE = 3.0, 96
"""Corrections deeper than this let colour move the whole edge, at this size."""
_THIN_PX, _ALONG, _CLOSE = 2.0, 0.6, 1.2
"""A click at most ``_THIN_PX`` from the edge moves the edge: next to the click, up to ``_CLOSE`` times its
distance from the edge, in any case; farther, up to ``_ALONG`` of the object's radius (2 to 12 pixels),
where the colour agrees.
"""

Point = tuple[float, float, bool]


class ClassicalSegmenter:
    """Stateless; the embedding is the image itself and is not kept on disk."""

    name = "classical"
    encoder = "pixels-1"
    device = "cpu"
    nbytes = 0
    persist = False

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """The pixels, (H, W, 3) uint8 RGB."""
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """One mask; its ``iou`` is what is expected by the look of its edge (``mask_confidence``)."""
        mask = self.mask(embedding, prompt, start_mask)
        pixels: npt.NDArray[np.uint8] = embedding.arrays["pixels"]  # type: ignore[assignment]
        before = None if start_mask is None or not prompt.points else start_mask.mask
        iou = expected_iou(pixels, mask, clicks=max(1, len(prompt.points)), before=before)
        return ClickResult(mask[None], np.array([iou], np.float32), None)

    def mask(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> Mask:
        """The (H, W) mask alone, for those who do not ask how good it is."""
        if not prompt.points and prompt.box is None:
            if start_mask is None:
                raise BadPrompt("no clicks, no box and nothing to start from", field="context.result")
            return start_mask.mask
        pixels: npt.NDArray[np.uint8] = embedding.arrays["pixels"]  # type: ignore[assignment]
        points = list(prompt.points)
        mask = np.zeros(embedding.hw, np.bool_) if start_mask is None else start_mask.mask
        if start_mask is None and prompt.box is not None:
            mask = _from_box(pixels, prompt.box)
        if start_mask is not None and start_mask.from_proposal and points and mask.any():
            mask = _snap(pixels, mask, points)
        # A previous mask has all clicks but the last in it; a proposal or an empty start has none.
        new = points[-1:] if start_mask is not None and not start_mask.from_proposal else points
        for index, point in enumerate(new, start=len(points) - len(new)):
            if mask.any():
                if bool(mask[_pixel(mask, point)]) == point[2]:
                    continue  # the mask agrees with this click already
                depth = _depth(mask, point)
                mask = _correct(pixels, mask, point, depth, points[: index + 1])
                mask = _refit(pixels, mask, depth, points[: index + 1])
            elif point[2]:
                mask = _first(pixels, point, points[: index + 1])
        return mask


def _first(pixels: npt.NDArray[np.uint8], point: Point, known: list[Point]) -> Mask:
    """The object around a first click: found coarsely in the whole picture, then again at its own scale."""
    height, width = pixels.shape[:2]
    half = float(max(height, width))
    while True:
        view = _View(pixels, point, half)
        x, y = view.inwards(point)
        bars = [view.inwards(p) for p in known if not p[2]]
        region = outline(view.lab, x, y, reach_px=_FIRST_REACH * max(view.lab.shape[:2]), barred=bars)
        # Look again at full size if the object is small enough for that; else keep this answer.
        closer = 3 * float(np.sqrt(np.count_nonzero(region))) / view.scale
        if view.scale == 1.0 or closer > half / 2:
            break
        half = max(closer, _SIDE / 2 - 2)  # shrinks until nothing is reduced: the loop ends
    region = polish(view.crop, region, band=_BAND_NEW, sure=view.sure(known))
    return view.put(np.zeros((height, width), np.bool_), _one_piece(region, view.pixel(point)))


def _snap(pixels: npt.NDArray[np.uint8], proposal: Mask, points: list[Point]) -> Mask:
    """The mask that one click in the middle of a proposal finds, if it is the same object and obeys the
    clicks; else the proposal. The outline found follows the edges of the picture; the proposal's may not.
    """
    x0, y0, x1, y1 = (int(v) for v in box_of_mask(proposal))
    part = np.pad(proposal[y0:y1, x0:x1], 1).astype(np.uint8)
    inner = cv2.distanceTransform(part, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(inner.argmax()), x1 - x0)
    middle = (x0 + column + 0.5, y0 + row + 0.5, True)
    found = _first(pixels, middle, [middle, *points])
    if any(bool(found[_pixel(found, point)]) != point[2] for point in points):
        return proposal
    common = np.count_nonzero(found & proposal) / np.count_nonzero(found | proposal)
    return found if common >= _SAME_OBJECT else proposal


def _correct(
    pixels: npt.NDArray[np.uint8], mask: Mask, point: Point, depth: float, known: list[Point]
) -> Mask:
    """The mask after one more click, changed near the click only."""
    x, y, positive = point
    if depth <= _THIN_PX:
        return _shift_edge(pixels, mask, point, depth)
    others = [float(np.hypot(x - p[0], y - p[1])) for p in known if p[2] != positive]
    far = max(2.0, min([_REACH * depth + _MORE_PX, *(0.9 * d for d in others)]))
    if not positive and sum(p[2] for p in known) == 1 and depth > _ANEW * min(others):
        # Most of what lies beyond this click is wrong: the first guess had the wrong scale.
        return _first(pixels, next(p for p in known if p[2]), known)
    view = _View(pixels, point, 1.5 * far + 8.0)
    far *= view.scale
    seen = view.take(mask)
    domain = ~seen if positive else seen
    at = view.inwards(point)
    features = np.dstack([view.lab, seen.astype(np.float32) * _MASK_EDGE])
    region = outline(
        features, *at, reach_px=far, nearest_px=min(max(1.5, _NEAR * depth * view.scale), 0.7 * far)
    )
    region &= domain
    sure = view.sure([(p[0], p[1], p[2] == positive) for p in known])
    sure[~domain] = -1
    region = _one_piece(polish(view.crop, region, band=_BAND_FIX, sure=sure), view.pixel(point)) & domain
    core = np.zeros(region.shape, np.uint8)
    cv2.circle(core, view.pixel(point)[::-1], max(1, int(_CORE * depth * view.scale)), 1, -1)
    region |= core.view(np.bool_) & domain
    changed = view.put(np.zeros(mask.shape, np.bool_), region)
    return mask | changed if positive else mask & ~changed


def _refit(pixels: npt.NDArray[np.uint8], mask: Mask, depth: float, known: list[Point]) -> Mask:
    """Let colour move the whole edge by up to the depth of the error that was clicked.

    An edge that is wrong by so much in one place is probably wrong by so much in others. Clicks and the
    pixels around them stay as they are.
    """
    area = int(np.count_nonzero(mask))
    if depth <= _REFIT_FROM_PX or area == 0:
        return mask
    sure = np.zeros(mask.shape, np.uint8)
    for x, y, positive in known:
        obeyed = bool(mask[_pixel(mask, (x, y, positive))]) == positive
        radius = int(0.6 * _depth(mask, (x, y, not positive))) if obeyed else 1
        cv2.circle(sure, (int(x), int(y)), min(max(radius, 1), 200), 1 if positive else 255, -1)
    return polish(
        pixels, mask, band=depth / float(np.sqrt(area / np.pi)), sure=sure.view(np.int8), side=_REFIT_SIDE
    )


def _shift_edge(pixels: npt.NDArray[np.uint8], mask: Mask, point: Point, depth: float) -> Mask:
    """Move the edge past a click that lies very close to it: what is wrong there is a thin strip.

    Next to the click the edge moves in any case. Farther along it moves where the colour is more like the
    clicked pixel than like what lies behind the strip. A background click on the outermost pixel removes
    just that pixel.
    """
    height, width = mask.shape
    x, y, positive = min(int(point[0]), width - 1), min(int(point[1]), height - 1), point[2]
    close = _CLOSE * depth
    along = float(np.clip(_ALONG * np.sqrt(np.count_nonzero(mask) / np.pi), 2.0, 12.0))
    if not positive and depth <= 1.0:
        along = close
    half = int(along + depth) + 3
    x0, y0 = max(0, x - half), max(0, y - half)
    window = (slice(y0, y + half + 1), slice(x0, x + half + 1))
    wrong = mask[window] != positive
    edge = cv2.distanceTransform(np.pad(wrong, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    strip = wrong & (edge <= depth + 0.1)
    rows, columns = np.indices(wrong.shape)
    distance = np.hypot(columns - (x - x0), rows - (y - y0))
    behind = wrong & ~strip
    lab = cv2.cvtColor(np.ascontiguousarray(pixels[window]), cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), 0.7).astype(np.float32)
    alike = np.zeros(wrong.shape, np.bool_)
    if behind.any():
        clicked, other = lab[y - y0, x - x0], lab[behind].mean(0)
        alike = ((lab - clicked) ** 2).sum(-1) < ((lab - other) ** 2).sum(-1)
    moved = mask.copy()
    moved[window][strip & (distance <= along) & (alike | (distance <= close))] = positive
    return moved


def _pixel(mask: Mask, point: Point) -> tuple[int, int]:
    """(row, column) of a click, inside the image."""
    return min(int(point[1]), mask.shape[0] - 1), min(int(point[0]), mask.shape[1] - 1)


def _depth(mask: Mask, point: Point) -> float:
    """Distance in pixels from a click to the nearest pixel on the other side of the mask's edge. The border
    of the picture does not count as an edge.
    """
    x, y = int(point[0]), int(point[1])
    height, width = mask.shape
    half = 64
    while True:
        y0, y1, x0, x1 = (
            max(0, y - half),
            min(height, y + half + 1),
            max(0, x - half),
            min(width, x + half + 1),
        )
        same = np.ascontiguousarray(mask[y0:y1, x0:x1] != point[2]).astype(np.uint8)
        whole = y0 == 0 and x0 == 0 and y1 == height and x1 == width
        if same.all():
            if whole:
                return float(max(height, width)) / 4
        else:
            depth = float(
                cv2.distanceTransform(same, cv2.DIST_L2, 5)[min(y, y1 - 1) - y0, min(x, x1 - 1) - x0]
            )
            if depth <= half or whole:
                return max(depth, 1.0)
        half *= 4


class _View:
    """A square window of the image around a point, reduced to at most ``_SIDE`` pixels."""

    def __init__(self, pixels: npt.NDArray[np.uint8], point: Point, half: float) -> None:
        height, width = pixels.shape[:2]
        self.x0, self.y0 = max(0, int(point[0] - half)), max(0, int(point[1] - half))
        self.x1, self.y1 = min(width, int(point[0] + half) + 2), min(height, int(point[1] + half) + 2)
        self.scale = min(1.0, _SIDE / max(self.x1 - self.x0, self.y1 - self.y0))
        part = pixels[self.y0 : self.y1, self.x0 : self.x1]
        self.size = (max(4, round(part.shape[1] * self.scale)), max(4, round(part.shape[0] * self.scale)))
        if (self.size[1], self.size[0]) != part.shape[:2]:
            part = cv2.resize(part, self.size, interpolation=cv2.INTER_AREA)
        self.crop = np.ascontiguousarray(part)
        lab = cv2.cvtColor(self.crop, cv2.COLOR_RGB2LAB)
        self.lab: npt.NDArray[np.float32] = cv2.GaussianBlur(lab, (0, 0), 0.7).astype(np.float32)

    def inwards(self, point: Point) -> tuple[float, float]:
        """(x, y) of a point of the image in the window."""
        fx, fy = self.size[0] / (self.x1 - self.x0), self.size[1] / (self.y1 - self.y0)
        return (point[0] - self.x0) * fx, (point[1] - self.y0) * fy

    def pixel(self, point: Point) -> tuple[int, int]:
        """(row, column) of a point, inside the window."""
        x, y = self.inwards(point)
        return min(max(int(y), 0), self.size[1] - 1), min(max(int(x), 0), self.size[0] - 1)

    def take(self, mask: Mask) -> Mask:
        """The window's part of a mask."""
        part = mask[self.y0 : self.y1, self.x0 : self.x1]
        if self.scale == 1.0 and part.shape == self.crop.shape[:2]:
            return part
        resized = cv2.resize(part.astype(np.float32), self.size, interpolation=cv2.INTER_AREA)
        return np.asarray(resized > 0.5)

    def put(self, mask: Mask, part: Mask) -> Mask:
        """Write the window's part into a mask of the image, in place."""
        shape = (self.x1 - self.x0, self.y1 - self.y0)
        if part.shape != (shape[1], shape[0]):
            part = cv2.resize(part.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR) > 0.5
        mask[self.y0 : self.y1, self.x0 : self.x1] = part
        return mask

    def sure(self, points: list[Point]) -> npt.NDArray[np.int8]:
        """Small discs around the clicks, +1 object and -1 background, else 0."""
        sure = np.zeros(self.crop.shape[:2], np.uint8)
        for point in points:
            x, y = self.inwards(point)
            cv2.circle(sure, (int(x), int(y)), 1, 1 if point[2] else 255, -1)
        return sure.view(np.int8)


def _one_piece(mask: Mask, at: tuple[int, int]) -> Mask:
    """The connected piece at the click, holes filled."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    piece = pieces == pieces[at] if pieces[at] else mask
    padded = np.pad(piece, 1).astype(np.uint8)
    cv2.floodFill(padded, None, (0, 0), 2)
    filled: Mask = padded[1:-1, 1:-1] != 2
    return filled


def _from_box(pixels: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> Mask:
    """GrabCut inside a box, starting from an ellipse that fills it. Nothing outside the box is selected."""
    x0, y0, x1, y1 = box
    centre = ((x0 + x1) / 2, (y0 + y1) / 2, True)
    view = _View(pixels, centre, 0.65 * max(x1 - x0, y1 - y0) + 8)
    left, top = view.inwards((x0, y0, True))
    right, bottom = view.inwards((x1, y1, True))
    rows, columns = np.mgrid[: view.size[1], : view.size[0]] + 0.5
    inside = (columns > left) & (columns < right) & (rows > top) & (rows < bottom)
    across = (columns - (left + right) / 2) / max(1e-6, (right - left) / 2)
    down = (rows - (top + bottom) / 2) / max(1e-6, (bottom - top) / 2)
    region = (across**2 + down**2 <= 1) & inside
    found = (
        polish(view.crop, region, band=0.6, sure=np.where(inside, 0, -1).astype(np.int8), rounds=2) & inside
    )
    # If GrabCut keeps too little of the ellipse, its colour model failed: the ellipse is the better answer.
    kept = found if np.count_nonzero(found) >= 0.2 * np.count_nonzero(region) else region
    if not kept.any():
        kept[view.pixel(centre)] = True
    return view.put(np.zeros(pixels.shape[:2], np.bool_), kept)


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> ClassicalSegmenter:
    """The segmenter needs no settings."""
    return ClassicalSegmenter()
