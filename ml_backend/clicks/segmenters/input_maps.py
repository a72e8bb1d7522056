"""Further input maps of the project's network, computed from a window and its clicks.

A network trained on a few hundred masks hardly learns what an edge or a region is. So these are given to it:

* how far every pixel is from the clicks if crossing an edge costs extra (geodesic distance, at two scales);
* whether a positive or a negative click is nearer in that sense;
* what the classical segmenter would answer.

The network then only has to learn where these are wrong.

Pure arrays: no torch.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter

__all__ = ["CLICK_FORMAT", "N_INPUT_MAPS", "compute_input_maps", "geodesic_distance"]

CLICK_FORMAT = 2
"""Format of click versions on disk. Raise it whenever networks trained before cannot be run any more."""
N_INPUT_MAPS = 5
"""Maps: the classical segmenter's mask, 0/1; then for each scale nearness to the positive clicks, 0..1, and
which sign of click is nearer, -1..1 (0 while there are clicks of one sign only).
"""
_SIGMAS = (0.7, 2.0)
"""Scales at which edges are looked for, in pixels of half the window's size."""
_ROUNDS = 5
_SMOOTH = 0.1
"""Cost of a step without any edge, in units of the window's mean edge."""
_FAR = np.float32(1e4)

_classical = ClassicalSegmenter()


def geodesic_distance(
    cost: npt.NDArray[np.float32], seeds: npt.NDArray[np.bool_], *, rounds: int = _ROUNDS
) -> npt.NDArray[np.float32]:
    """Cost of the cheapest path from each pixel to a seed, in steps up, down, left and right. Each round
    finds paths with about two more turns.

    cost (…, H, W) float32 > 0: the cost of entering a pixel; seeds (…, H, W) bool, broadcast against it.
    Returns (…, H, W) float32: 0 at seeds, 1e4 and more where there are none. O(rounds · H · W): one sweep
    along a line is a running minimum of the distance minus the cost summed so far.
    """
    distance = np.where(seeds, np.float32(0), _FAR)
    sums = []
    for axis in (-1, -2):
        forth = np.cumsum(cost, axis)
        sums.append((axis, forth, forth - cost))
    for _ in range(rounds):
        for axis, forth, back in sums:
            distance = np.minimum.accumulate(distance - forth, axis) + forth
            turned = np.flip(distance + back, axis)
            distance = np.flip(np.minimum.accumulate(turned, axis), axis) - back
    return np.asarray(distance, np.float32)


def _edge_cost(lab: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """(H, W) float32: the cost of entering a pixel, which grows with the strength of the edge there."""
    smooth = cv2.GaussianBlur(lab, (0, 0), sigma)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    edge = np.sqrt((dx * dx + dy * dy).sum(-1))
    return np.asarray(edge / (edge.mean() + 1e-3) + _SMOOTH, np.float32)


def compute_input_maps(
    image: npt.NDArray[np.uint8],
    clicks: npt.NDArray[np.float32],
    previous: npt.NDArray[np.bool_],
    points: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The maps of one window, (N_INPUT_MAPS, S, S) float32; the module's docstring lists them.

    image (S, S, 3) uint8; clicks (3, S, S) of 0/1, of which the box is used; previous (S, S) bool; points
    (n, 3) clicks as (x, y, positive) in pixels of the window. Distances are computed at half the size.
    """
    size = len(image)
    half = size // 2
    out = np.zeros((N_INPUT_MAPS, size, size), np.float32)
    out[0] = _candidate(image, clicks, previous, points)
    if not len(points):
        return out
    small = cv2.resize(image, (half, half), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    seeds = np.zeros((2, half, half), np.bool_)
    for x, y, positive in points:
        seeds[0 if positive else 1, min(int(y) // 2, half - 1), min(int(x) // 2, half - 1)] = True
    cost = np.stack([_edge_cost(lab, sigma) for sigma in _SIGMAS])
    both = bool(seeds.any((1, 2)).all())
    wanted = seeds if both else seeds[:1]
    distance = geodesic_distance(cost[:, None], wanted[None]) / half
    for index, found in enumerate(distance):
        out[1 + 2 * index] = _enlarge(1.0 / (1.0 + 3.0 * found[0]), size)
        if both:
            near, far = found
            out[2 + 2 * index] = _enlarge((far - near) / (far + near + 1e-3), size)
    return out


def _enlarge(small: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    large: npt.NDArray[np.float32] = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    return large


def _candidate(
    image: npt.NDArray[np.uint8],
    clicks: npt.NDArray[np.float32],
    previous: npt.NDArray[np.bool_],
    points: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """The classical answer: the previous mask corrected by every click that contradicts it."""
    embedding = _classical.embed(image)
    mask = previous
    if not mask.any() and clicks[2].any():
        x, y, w, h = cv2.boundingRect(clicks[2].astype(np.uint8))
        box = (float(x), float(y), float(x + w), float(y + h))
        mask = _classical.mask(embedding, Prompt((), box, ""), None)
    known = tuple((float(x) + 0.5, float(y) + 0.5, bool(p)) for x, y, p in points)
    if not mask.any() and known:
        mask = _classical.mask(embedding, Prompt(known, None, ""), None)
    for index, (x, y, positive) in enumerate(known):
        if bool(mask[int(y), int(x)]) != positive:
            start_mask = StartMask(mask, None, (0.0, 0.0, 1.0, 1.0), False)
            mask = _classical.mask(embedding, Prompt(known[: index + 1], None, ""), start_mask)
    return mask
