"""Class-agnostic masks of a picture by classical means: light and dark parts, split blobs, merged regions.

Three sources that fail on different pictures:

* components of threshold levels of several channels (maximally stable ones come up at many levels);
* blobs of a thresholded picture, split by a watershed at several scales: objects that touch;
* regions of a gradient watershed, merged pair by pair, the most alike first: every node of that tree is a
  candidate (Arbelaez et al. 2014; Uijlings et al. 2013).

All work on a picture reduced to a working size; masks are kept as crops.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Crop", "Maps", "all_candidates", "picture_maps"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
_LEVELS = 10
_SPLIT_SCALES = (1.5, 4.0)
_GRADIENT_SCALES = (1.5,)
_MOST_REGIONS = 350


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A mask as the bitmap ``inside`` (h, w) bool, whose upper left corner lies at (x, y) of the picture."""

    x: int
    y: int
    inside: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What all sources look at, at working size (h, w): ``lab`` (h, w, 3) float32 in 0..255, ``edge`` (h, w)
    float32, strength of colour edges, 1 = as strong as the strongest twentieth of the picture's."""

    lab: Floats
    edge: Floats

    @property
    def hw(self) -> tuple[int, int]:
        return self.edge.shape[0], self.edge.shape[1]


def picture_maps(image: npt.NDArray[np.uint8]) -> Maps:
    """Maps of an (h, w, 3) uint8 RGB picture of working size."""
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), np.float32)
    smooth = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0), np.float32)
    edge = _edges(smooth)
    top = float(np.quantile(edge, 0.95))
    return Maps(smooth, np.asarray(np.minimum(edge / max(top, 1e-3), 1.5), np.float32))


def all_candidates(maps: Maps, *, min_area: int, max_share: float, most: int) -> Iterator[list[Crop]]:
    """Candidates of each source, at most ``most`` a source (those with the strongest outline).

    Masks cover at least ``min_area`` pixels and at most ``max_share`` of the picture.
    """
    limits = (min_area, int(max_share * maps.edge.size))
    for parts in (_threshold_parts(maps), _split_parts(maps, min_area)):
        yield _strongest(parts, maps.edge, limits, most)
    yield _strongest(_merged_parts(maps, min_area), maps.edge, limits, most)


def _edges(lab: Floats) -> Floats:
    total = np.zeros(lab.shape[:2], np.float32)
    for channel, weight in zip(cv2.split(lab), (1.0, 1.5, 1.5), strict=True):
        dx, dy = cv2.Sobel(channel, cv2.CV_32F, 1, 0), cv2.Sobel(channel, cv2.CV_32F, 0, 1)
        total += np.float32(weight) * (dx * dx + dy * dy)
    return np.asarray(np.sqrt(total), np.float32)


def _channels(maps: Maps) -> list[Floats]:
    """Lightness, lightness against its surroundings, and both colour axes where there is colour."""
    light = maps.lab[..., 0]
    reach = max(maps.hw) / 12
    around = np.asarray(cv2.GaussianBlur(light, (0, 0), reach), np.float32)
    found = [light, light - around]
    found += [maps.lab[..., k] for k in (1, 2) if float(maps.lab[..., k].std()) > 2.0]
    return found


def _threshold_parts(maps: Maps) -> Iterator[npt.NDArray[np.int32]]:
    for channel in _channels(maps):
        levels = np.unique(np.quantile(channel, np.linspace(0.03, 0.97, _LEVELS)))
        otsu = _otsu(channel)
        for level in (otsu, *levels):
            above = np.asarray(channel > level)
            for side in (above, ~above):
                yield _parts(side)


def _split_parts(maps: Maps, min_area: int) -> Iterator[npt.NDArray[np.int32]]:
    """Blobs split at the necks between them (distance to the border) and at dents of brightness."""
    for channel in _channels(maps)[:2]:
        level = _otsu(channel)
        spread = max(float(channel.std()), 1e-3)
        for side, sign in ((channel > level, 1.0), (channel < level, -1.0)):
            blob = np.asarray(ndimage.binary_fill_holes(side), np.bool_)
            depth = np.asarray(cv2.distanceTransform(blob.astype(np.uint8), cv2.DIST_L2, 3), np.float32)
            if depth.max() <= 1 or blob.all():
                continue
            bright = (channel - level) * np.float32(sign / spread)
            for scale in _SPLIT_SCALES:
                yield _split(blob, depth, scale)
                yield _split(blob, np.asarray(bright, np.float32), 1.5 * scale)


def _split(blob: Bools, height: Floats, scale: float) -> npt.NDArray[np.int32]:
    """Watershed of a blob map: one part per peak of ``height`` smoothed by ``scale`` pixels."""
    smooth = np.asarray(cv2.GaussianBlur(height, (0, 0), scale), np.float32)
    reach = 2 * round(scale) + 1
    peak = (smooth >= cv2.dilate(smooth, np.ones((reach, reach), np.uint8))) & blob
    count, marker = cv2.connectedComponents(peak.astype(np.uint8))
    if count < 2:
        return np.zeros(blob.shape, np.int32)
    return np.where(blob, _flood(-smooth, np.asarray(marker, np.int32)), 0).astype(np.int32)


def _flood(landscape: Floats, marker: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    low, high = float(landscape.min()), float(landscape.max())
    levels = np.asarray((landscape - low) / max(high - low, 1e-6) * 255, np.uint8)
    return np.asarray(ndimage.watershed_ift(levels, marker), np.int32)


def _merged_parts(maps: Maps, min_area: int) -> Iterator[npt.NDArray[np.int32] | Crop]:
    for scale in _GRADIENT_SCALES:
        edge = np.asarray(cv2.GaussianBlur(maps.edge, (0, 0), scale), np.float32)
        reach = 3
        low = np.asarray(edge <= cv2.erode(edge, np.ones((reach, reach), np.uint8)))
        count, marker = cv2.connectedComponents(low.astype(np.uint8), connectivity=8)
        if count < 3:
            continue
        region = _flood(edge, np.asarray(marker, np.int32)) - 1
        region = _absorb_small(region, maps, edge)
        yield np.asarray(region + 1, np.int32)
        yield from _merge_tree(region, maps, edge)


@dataclass(slots=True, eq=False)
class _Graph:
    """Regions that touch: ``pair`` (m, 2) region numbers a < b, ``length`` (m,) pixels of common border,
    ``strength`` (m,) mean edge along it; per region ``area`` and ``colour`` (k, 3) means."""

    pair: npt.NDArray[np.int64]
    length: npt.NDArray[np.float64]
    strength: npt.NDArray[np.float64]
    area: npt.NDArray[np.float64]
    colour: npt.NDArray[np.float64]


def _graph(region: npt.NDArray[np.int32], maps: Maps, edge: Floats) -> _Graph:
    n = int(region.max()) + 1
    flat = region.reshape(-1)
    area = np.bincount(flat, minlength=n).astype(np.float64)
    colour = np.stack(
        [np.bincount(flat, maps.lab[..., k].reshape(-1), n) / np.maximum(area, 1) for k in range(3)], axis=1
    )
    first, second, strength = [], [], []
    for a, b, e0, e1 in (
        (region[:, :-1], region[:, 1:], edge[:, :-1], edge[:, 1:]),
        (region[:-1], region[1:], edge[:-1], edge[1:]),
    ):
        differ = a != b
        first.append(np.minimum(a[differ], b[differ]))
        second.append(np.maximum(a[differ], b[differ]))
        strength.append(np.maximum(e0[differ], e1[differ]))
    key = np.concatenate(first).astype(np.int64) * n + np.concatenate(second)
    unique, place = np.unique(key, return_inverse=True)
    length = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, np.concatenate(strength)) / np.maximum(length, 1)
    return _Graph(np.stack([unique // n, unique % n], axis=1), length, mean, area, colour)


def _absorb_small(region: npt.NDArray[np.int32], maps: Maps, edge: Floats) -> npt.NDArray[np.int32]:
    """Join the weakest borders, whole passes at a time, until few enough regions are left for a tree."""
    while int(region.max()) + 1 > _MOST_REGIONS:
        graph = _graph(region, maps, edge)
        n = len(graph.area)
        if not len(graph.pair):
            break
        cost = _cost(graph.strength, graph.colour, graph.area, graph.pair)
        # each region joins its cheapest neighbour if that border is among the cheaper half of all
        best = np.full(n, np.inf)
        np.minimum.at(best, graph.pair[:, 0], cost)
        np.minimum.at(best, graph.pair[:, 1], cost)
        limit = np.quantile(cost, min(1.0, max(0.1, 1 - _MOST_REGIONS / n)))
        mutual = (cost <= best[graph.pair].max(axis=1)) & (cost <= limit)
        if not mutual.any():
            mutual = cost <= np.partition(cost, 0)[0]
        target = np.arange(n)
        target[graph.pair[mutual, 1]] = graph.pair[mutual, 0]
        while True:
            further = target[target]
            if (further == target).all():
                break
            target = further
        _, renamed = np.unique(target, return_inverse=True)
        region = renamed.astype(np.int32)[region]
    return region


def _cost(
    strength: npt.NDArray[np.float64],
    colour: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
    pair: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """How unlike two regions are; small ones are cheap, so that they are joined first."""
    gap = np.linalg.norm(colour[pair[:, 0]] - colour[pair[:, 1]], axis=1) / 40
    small = np.minimum(area[pair[:, 0]], area[pair[:, 1]])
    return np.asarray((strength + gap + 0.05) * small**0.35, np.float64)


def _merge_tree(region: npt.NDArray[np.int32], maps: Maps, edge: Floats) -> Iterator[Crop]:
    """Every union on the way from single regions to the whole picture."""
    graph = _graph(region, maps, edge)
    n = len(graph.area)
    boxes = ndimage.find_objects(region + 1)
    area, colour = list(graph.area), [*graph.colour]
    touching: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    for (a, b), length, strength in zip(graph.pair.tolist(), graph.length, graph.strength, strict=True):
        touching[a][b] = touching[b][a] = (float(length), float(strength))
    members: list[list[int]] = [[i] for i in range(n)]
    alive = [True] * n
    heap = [(_pair_cost(touching[a][b][1], colour, area, a, b), a, b) for a, b in graph.pair.tolist()]
    heapq.heapify(heap)
    while heap:
        _, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        new = len(members)
        alive[a] = alive[b] = False
        alive.append(True)
        members.append(members[a] + members[b])
        area.append(area[a] + area[b])
        colour.append((colour[a] * area[a] + colour[b] * area[b]) / area[new])
        mine: dict[int, tuple[float, float]] = {}
        for side in (a, b):
            for other, (length, strength) in touching[side].items():
                if other in (a, b) or not alive[other]:
                    continue
                before, mean = mine.get(other, (0.0, 0.0))
                total = before + length
                mine[other] = (total, (mean * before + strength * length) / total)
        touching.append(mine)
        for other, bound in mine.items():
            touching[other][new] = bound
            heapq.heappush(heap, (_pair_cost(bound[1], colour, area, other, new), other, new))
        if len(members[new]) < n:
            yield _union(region, boxes, members[new])


def _pair_cost(
    strength: float, colour: list[npt.NDArray[np.float64]], area: list[float], a: int, b: int
) -> float:
    gap = float(np.sqrt(((colour[a] - colour[b]) ** 2).sum())) / 40
    return float((strength + gap + 0.05) * min(area[a], area[b]) ** 0.35)


def _union(region: npt.NDArray[np.int32], boxes: list[tuple[slice, slice]], members: list[int]) -> Crop:
    rows, columns = zip(*(boxes[i] for i in members), strict=True)
    y0, y1 = min(s.start for s in rows), max(s.stop for s in rows)
    x0, x1 = min(s.start for s in columns), max(s.stop for s in columns)
    chosen = np.zeros(len(boxes), np.bool_)
    chosen[members] = True
    return Crop(x0, y0, chosen[region[y0:y1, x0:x1]])


def _parts(side: Bools) -> npt.NDArray[np.int32]:
    _, part = cv2.connectedComponents(side.astype(np.uint8), connectivity=4)
    return np.asarray(part, np.int32)


def _otsu(channel: Floats) -> float:
    low, high = float(channel.min()), float(channel.max())
    if high - low < 1e-3:
        return low
    grey = np.asarray((channel - low) / (high - low) * 255, np.uint8)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return low + (level + 0.5) / 255 * (high - low)


def _strongest(
    parts: Iterator[npt.NDArray[np.int32] | Crop] | Iterator[npt.NDArray[np.int32]],
    edge: Floats,
    limits: tuple[int, int],
    most: int,
) -> list[Crop]:
    """The most promising candidates within the limits of area, holes filled.

    Every octave of sizes gets an equal share of the places first, since specks and textures of one size
    would take them all.
    """
    score: list[float] = []
    area: list[int] = []
    crops: list[Crop] = []
    for found in parts:
        if isinstance(found, Crop):
            found_score, found_area, found_crops = _scored_crop(found, edge, limits)
        else:
            found_score, found_area, found_crops = _scored_parts(found, edge, limits)
        score += found_score
        area += found_area
        crops += found_crops
    if not crops:
        return []
    octave = np.floor(np.log2(np.asarray(area))).astype(np.int64)
    ranked = np.argsort(-np.asarray(score), kind="stable")
    rank_in_octave = np.zeros(len(crops), np.int64)
    for value in np.unique(octave):
        mine = ranked[octave[ranked] == value]
        rank_in_octave[mine] = np.arange(len(mine))
    order = ranked[np.argsort(rank_in_octave[ranked], kind="stable")][:most]
    return [Crop(crops[i].x, crops[i].y, _filled(crops[i].inside)) for i in order.tolist()]


Scored = tuple[list[float], list[int], list[Crop]]


def _scored_parts(part: npt.NDArray[np.int32], edge: Floats, limits: tuple[int, int]) -> Scored:
    """Parts by the strength of their outline against the edges within, and by likeness to an ellipse."""
    n = int(part.max()) + 1
    flat = part.reshape(-1)
    area = np.bincount(flat, minlength=n)
    fits = (area >= limits[0]) & (area <= limits[1])
    fits[0] = False
    if not fits.any():
        return [], [], []
    rim = np.zeros(part.shape, np.bool_)
    across, down = part[:, :-1] != part[:, 1:], part[:-1] != part[1:]
    rim[:, :-1] |= across
    rim[:, 1:] |= across
    rim[:-1] |= down
    rim[1:] |= down
    where = np.flatnonzero(fits[flat])  # most pixels lie in parts that are too large or too small
    which, strength, outer = flat[where], edge.reshape(-1)[where], rim.reshape(-1)[where]
    length = np.bincount(which[outer], minlength=n)
    on_rim = np.bincount(which[outer], strength[outer], n)
    within = np.bincount(which, strength, n) - on_rim
    score = on_rim / np.maximum(length, 1) - 0.5 * within / np.maximum(area - length, 1)
    score += 0.7 * _likeness_to_ellipse(which, where, part.shape[1], area)
    boxes = ndimage.find_objects(part)
    chosen = np.flatnonzero(fits).tolist()
    crops = []
    for k in chosen:
        rows, columns = boxes[k - 1]
        crops.append(Crop(columns.start, rows.start, np.asarray(part[rows, columns] == k)))
    return score[chosen].tolist(), area[chosen].tolist(), crops


def _likeness_to_ellipse(
    which: npt.NDArray[np.int32], where: npt.NDArray[np.int64], width: int, area: npt.NDArray[np.int64]
) -> Floats:
    """(n,) area over the area of the ellipse with the same second moments: 1 = an ellipse.

    ``which`` is the part of each pixel, ``where`` its place in the flattened map.
    """
    n = len(area)
    y, x = (v.astype(np.float32) for v in np.divmod(where, width))
    safe = np.maximum(area, 1)
    mean_x, mean_y = np.bincount(which, x, n) / safe, np.bincount(which, y, n) / safe
    dx, dy = x - mean_x[which], y - mean_y[which]
    var_x = np.bincount(which, dx * dx, n) / safe + 1 / 12
    var_y = np.bincount(which, dy * dy, n) / safe + 1 / 12
    cov = np.bincount(which, dx * dy, n) / safe
    spread = 4 * np.pi * np.sqrt(np.maximum(var_x * var_y - cov * cov, 1e-6))
    return np.asarray(area / spread, np.float32)


def _scored_crop(crop: Crop, edge: Floats, limits: tuple[int, int]) -> Scored:
    if not limits[0] <= int(crop.inside.sum()) <= limits[1]:
        return [], [], []
    h, w = crop.inside.shape
    y0, x0 = max(crop.y - 1, 0), max(crop.x - 1, 0)
    y1, x1 = min(crop.y + h + 1, edge.shape[0]), min(crop.x + w + 1, edge.shape[1])
    part = np.zeros((y1 - y0, x1 - x0), np.int32)
    part[crop.y - y0 : crop.y - y0 + h, crop.x - x0 : crop.x - x0 + w] = crop.inside
    score, area, _ = _scored_parts(part, edge[y0:y1, x0:x1], limits)
    return score, area, [crop] if score else []


def _filled(inside: Bools) -> Bools:
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.drawContours(np.zeros(inside.shape, np.uint8), lines, -1, 1, cv2.FILLED)
    return np.asarray(whole > 0) | inside
