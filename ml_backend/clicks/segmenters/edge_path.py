"""The outline around a point: a closed path of strongest edges in log-polar coordinates, and a colour polish.

Around a click the picture is sampled along rays at logarithmic distances, so that objects of 6 and of 600
pixels look alike and no scale has to be guessed. The outline is a closed path with one point on every ray. It
follows strong edges, and an edge counts less when other edges lie between it and the click. From ray to ray
it moves by at most one bin (dynamic programming, O(rays × bins)). The outline is star-shaped; ``polish``
then lets colour decide in a band around it (GrabCut: Rother et al., SIGGRAPH 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["outline", "polish"]

Mask = npt.NDArray[np.bool_]

BINS, RAYS = 72, 48
_SPAN = 6
"""Bins averaged on either side of an edge."""
_INNER = 1.5
"""Weight of the mean edge strength between the click and an edge; it is subtracted from the edge's own."""
_BEND = 0.15
"""Cost of one radial step between rays, in standard deviations of the edge strength."""
_FAR = np.float32(-1e6)


def outline(
    features: npt.NDArray[np.float32],
    x: float,
    y: float,
    *,
    reach_px: float,
    nearest_px: float = 2.0,
    barred: Sequence[tuple[float, float]] = (),
) -> Mask:
    """The star-shaped region around (x, y) whose outline collects the strongest edges.

    Parameters
    ----------
    features : (H, W, C) float32, C ≤ 4; edges are jumps of these in Euclidean distance
    x, y : the click, pixels
    reach_px, nearest_px : farthest and nearest the outline may be
    barred : (x, y) points that must stay outside

    Returns (H, W) bool, containing the click.
    """
    height, width = features.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_POLAR_LOG | cv2.WARP_FILL_OUTLIERS
    polar = cv2.warpPolar(features, (BINS, RAYS), (x, y), reach_px, flags)
    polar = polar.reshape(RAYS, BINS, -1)
    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    radius = reach_px ** (np.arange(BINS) / BINS)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    along_x, along_y = x + radius * cos, y + radius * sin
    beyond = (along_x < 0) | (along_y < 0) | (along_x > width - 1) | (along_y > height - 1)
    last = np.maximum.accumulate(np.where(beyond, 0, np.arange(BINS)), axis=1)
    polar = np.take_along_axis(polar, last[..., None], 1)  # a ray that leaves the picture stays at its border
    score = _edge_scores(polar, beyond)
    score[:, radius < nearest_px] = _FAR
    for bar_x, bar_y in barred:
        distance = float(np.hypot(bar_x - x, bar_y - y))
        ray = round(float(np.arctan2(bar_y - y, bar_x - x)) / (2 * np.pi) * RAYS)
        bins = radius > max(0.9 * distance, nearest_px * 1.2)
        score[np.ix_(np.arange(ray - 1, ray + 2) % RAYS, bins)] = _FAR
    path = _closed_path(score)
    # An edge between bins i - 1 and i lies half a bin below i.
    reach = reach_px ** ((path - 0.5) / BINS)
    corners = np.stack([x + reach * cos[:, 0], y + reach * sin[:, 0]], 1)
    region = np.zeros((height, width), np.uint8)
    cv2.fillPoly(region, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    region[min(int(y), height - 1), min(int(x), width - 1)] = 1
    return region.view(np.bool_)


def _edge_scores(polar: npt.NDArray[np.float32], beyond: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(rays, bins) float32: the jump at each bin minus a share (``_INNER``) of the mean jump before it."""
    smooth = cv2.blur(np.concatenate([polar[-1:], polar, polar[:1]]), (1, 3)).reshape(RAYS + 2, BINS, -1)[
        1:-1
    ]
    total = np.concatenate([np.zeros_like(smooth[:, :1]), np.cumsum(smooth, 1)], 1)
    at = np.arange(_SPAN, BINS - _SPAN)
    inside, outside = total[:, at] - total[:, at - _SPAN], total[:, at + _SPAN] - total[:, at]
    jump = np.zeros((RAYS, BINS), np.float32)
    jump[:, at] = np.sqrt(((inside - outside) ** 2).sum(-1)) / _SPAN
    passed = np.cumsum(jump, 1) / np.arange(1, BINS + 1, dtype=np.float32)
    score = jump - _INNER * passed
    leaving = beyond & ~np.roll(beyond, 1, 1)
    score[beyond & ~leaving] = _FAR
    # The object may end at the picture's border: it scores like a fairly strong edge.
    inner = score[~beyond]
    score[leaving] = np.float32(np.median(inner) + inner.std())
    scored: npt.NDArray[np.float32] = score.astype(np.float32, copy=False)
    return scored


def _closed_path(score: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """One bin per ray, with nearly the highest sum of scores. Neighbouring rays differ by at most one bin,
    also the last and the first.

    The path runs around twice. Only the middle turn is kept, where the open ends no longer matter.
    """
    bend = np.float32(_BEND * score[score > _FAR].std())
    turns = np.concatenate([score, score, score[:1]])
    steps = np.zeros((len(turns), BINS), np.int8)
    value = turns[0].copy()
    candidates = np.full((3, BINS), _FAR * 1000, np.float32)
    for row in range(1, len(turns)):
        candidates[0, 1:] = value[:-1] - bend
        candidates[1] = value
        candidates[2, :-1] = value[1:] - bend
        best = candidates.argmax(0)
        steps[row] = best - 1
        value = np.take_along_axis(candidates, best[None], 0)[0] + turns[row]
    path = np.zeros(len(turns), np.intp)
    path[-1] = int(value.argmax())
    for row in range(len(turns) - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    half = RAYS // 2
    return np.roll(path[half : half + RAYS], half)


def polish(
    image: npt.NDArray[np.uint8],
    mask: Mask,
    *,
    band: float,
    sure: npt.NDArray[np.int8] | None = None,
    side: int = 224,
    rounds: int = 1,
) -> Mask:
    """Let colour decide near the outline of ``mask``: GrabCut in a band, everything else fixed.

    Parameters
    ----------
    image : (H, W, 3) uint8
    band : half width of the band as a share of the radius of a disc of the mask's area
    sure : (H, W) int8, 1 = surely object, -1 = surely background, 0 = open; or None
    side : longest side in pixels at which the cut is computed
    """
    area = int(np.count_nonzero(mask))
    if area < 4:
        return mask
    height, width = mask.shape
    reach = max(2.0, band * float(np.sqrt(area / np.pi)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad = int(2 * reach) + 4
    y0, y1 = max(0, rows[0] - pad), min(height, rows[-1] + pad + 1)
    x0, x1 = max(0, columns[0] - pad), min(width, columns[-1] + pad + 1)
    window = (slice(y0, y1), slice(x0, x1))
    scale = min(1.0, side / max(y1 - y0, x1 - x0))
    size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
    crop = np.ascontiguousarray(cv2.resize(image[window], size, interpolation=cv2.INTER_AREA))
    inside = cv2.resize(mask[window].astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    trimap = np.where(inside > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[cv2.distanceTransform(inside, cv2.DIST_L2, 3) > reach * scale] = cv2.GC_FGD
    trimap[cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3) > reach * scale] = cv2.GC_BGD
    if sure is not None:
        told = cv2.resize(sure[window], size, interpolation=cv2.INTER_NEAREST)
        trimap[told > 0], trimap[told < 0] = cv2.GC_FGD, cv2.GC_BGD
    foreground = _cut(crop, trimap, rounds)
    if foreground is None:
        return mask
    polished = mask.copy()
    polished[window] = cv2.resize(foreground, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 0.5
    return polished


def _cut(crop: npt.NDArray[np.uint8], trimap: npt.NDArray[np.uint8], rounds: int) -> npt.NDArray[Any] | None:
    """GrabCut; None when object or background has too few pixels."""
    objects = int(np.count_nonzero(trimap & 1))
    if min(objects, trimap.size - objects) < 8:
        return None
    try:
        cv2.setRNGSeed(0)  # its k-means starts at random; the same click must give the same mask
        cv2.grabCut(crop, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # a flat picture has no colour models
        return None
    return (trimap & 1).astype(np.float32)
