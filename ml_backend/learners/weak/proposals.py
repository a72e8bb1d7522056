"""Class-agnostic proposals of a picture: some hundred masks, parts and wholes, one of them each object.

They come from a *mask source*: classical segmentation, or the masks that a click segmenter gives for a grid
of clicks. Near-duplicates are dropped, and parts that touch are joined where nothing covers both (CIM needs
parts *and* wholes: algorithm of Li et al., IJCAI 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.learners.mask_pasting import crop_to_rle
from ml_backend.learners.weak.candidates import Crop, Maps, all_candidates, picture_maps
from ml_backend.learners.weak.cues import cues_of, objectness
from ml_backend.learners.weak.maps import Words, grid_side, overlap_maps, pack
from ml_backend.masks.rle import decode_rle, rle_hw

__all__ = ["ClassicalMasks", "MaskSource", "Proposals", "crop_of", "find_proposals", "rle_at"]

_SAME = 0.9
_ALIKE = 0.8
_UNION_COVER = 0.85
_MIN_SHARE, _MIN_PX = 0.0002, 10

Floats = npt.NDArray[np.float32]


class MaskSource(Protocol):
    """Where proposals come from.

    ``masks`` gives candidates of an (h, w, 3) uint8 RGB picture of working size, and how far each is trusted
    (n,) float32 in 0..1, or None where only the picture can say. ``name`` stands for all that its masks
    depend on, weights too.
    """

    name: str

    def masks(self, image: npt.NDArray[np.uint8], maps: Maps) -> tuple[list[Crop], Floats | None]: ...


@dataclass(frozen=True, slots=True)
class ClassicalMasks:
    """Threshold levels, split blobs and merged regions; no checkpoint. ``most``: candidates of each."""

    most: int = 300
    name: str = "classical"

    def masks(self, image: npt.NDArray[np.uint8], maps: Maps) -> tuple[list[Crop], Floats | None]:
        least = max(_MIN_PX, int(_MIN_SHARE * maps.edge.size))
        parts = all_candidates(maps, min_area=least, max_share=0.6, most=self.most)
        # the best of each source first: of near-duplicates the first stays
        ranked = [crop for rank in zip_longest(*parts) for crop in rank if crop is not None]
        return ranked, None


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """The n proposals of a picture, the most object-like first.

    Attributes
    ----------
    hw : size of the picture in pixels
    work_hw : size at which the crops are
    crops : n masks at working size
    packed : (n, words) uint64, on the grid of the overlap maps
    prior : (n,) float32 in 0..1, how much each looks like a complete object of any kind
    cues : (n, k) float32, see ``cues_of``
    maps : of the picture at working size
    """

    hw: tuple[int, int]
    work_hw: tuple[int, int]
    crops: list[Crop]
    packed: Words
    prior: Floats
    cues: Floats
    maps: Maps

    def __len__(self) -> int:
        return len(self.crops)


def find_proposals(
    image: npt.NDArray[np.uint8],
    source: MaskSource,
    *,
    most: int,
    work_side: int,
    drawn: Sequence[Rle] = (),
) -> Proposals:
    """Proposals of an (H, W, 3) uint8 RGB picture, at most ``most``; a picture without structure has none.

    ``drawn`` masks, at the size of the picture, are the last proposals, whatever they look like.
    """
    height, width = image.shape[:2]
    factor = min(1.0, work_side / max(height, width))
    work_hw = (max(8, round(height * factor)), max(8, round(width * factor)))
    small = image
    if work_hw != (height, width):
        resized = cv2.resize(image, (work_hw[1], work_hw[0]), interpolation=cv2.INTER_AREA)
        small = np.asarray(resized, np.uint8)
    maps = picture_maps(small)
    crops, trust = source.masks(small, maps)
    own = [crop_of(rle, work_hw) for rle in drawn]
    side = grid_side(crops + own, work_hw)
    packed = pack(crops, work_hw, side)
    cues = cues_of([], maps)
    prior: Floats = np.zeros(0, np.float32)
    if crops:
        kept, alike = _distinct(crops, packed, trust)
        crops, packed = [crops[i] for i in kept], packed[kept]
        cues = cues_of(crops, maps, alike)
        prior = objectness(cues) if trust is None else trust[kept]
        joins = _unions(crops, packed, prior, work_hw)
        crops, packed = crops + joins, np.concatenate([packed, pack(joins, work_hw, side)])
        joined = cues_of(joins, maps)
        cues = np.concatenate([cues, joined])
        looks = objectness(joined)
        prior = np.concatenate([prior, looks if trust is None else np.minimum(looks, prior.min())])
        best = np.argsort(-prior, kind="stable")[:most]
        crops, packed, cues, prior = [crops[i] for i in best], packed[best], cues[best], prior[best]
    return Proposals(
        hw=(height, width),
        work_hw=work_hw,
        crops=crops + own,
        packed=np.concatenate([packed, pack(own, work_hw, side)]),
        prior=np.concatenate([prior, np.ones(len(own), np.float32)]),
        cues=np.concatenate([cues, cues_of(own, maps)]),
        maps=maps,
    )


def rle_at(crop: Crop, work_hw: tuple[int, int], hw: tuple[int, int]) -> Rle:
    """The mask of a crop at the size ``hw`` of the picture, outlines interpolated."""
    if work_hw == hw:
        return crop_to_rle(crop.inside, (crop.x, crop.y), hw)
    sy, sx = hw[0] / work_hw[0], hw[1] / work_hw[1]
    h, w = crop.inside.shape
    x0, y0 = max(0, int((crop.x - 1) * sx)), max(0, int((crop.y - 1) * sy))
    x1, y1 = min(hw[1], int(np.ceil((crop.x + w + 1) * sx))), min(hw[0], int(np.ceil((crop.y + h + 1) * sy)))
    move = np.array(
        [
            [1 / sx, 0, (x0 + 0.5) / sx - crop.x - 0.5],
            [0, 1 / sy, (y0 + 0.5) / sy - crop.y - 0.5],
        ]
    )
    grey = cv2.warpAffine(
        crop.inside.astype(np.float32),
        move,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return crop_to_rle(np.asarray(grey >= 0.5), (x0, y0), hw)


def crop_of(rle: Rle, work_hw: tuple[int, int]) -> Crop:
    """A mask at working size; one pixel at least."""
    height, width = rle_hw(rle)
    mask = decode_rle(rle).astype(np.float32)
    if (height, width) != work_hw:
        mask = np.asarray(cv2.resize(mask, (work_hw[1], work_hw[0]), interpolation=cv2.INTER_AREA))
    inside = np.asarray(mask >= min(0.5, max(float(mask.max()), 1e-6)))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Crop(int(x0), int(y0), inside[y0:y1, x0:x1])


def _distinct(crops: list[Crop], packed: Words, trust: Floats | None) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places of the candidates kept, and for each the log of how often it was found in nearly the same form
    (a stable region is found at many levels). Of near-duplicates the most trusted stays, or the first."""
    n = len(crops)
    first, second, iou = _similar_pairs(crops, packed)
    alike = np.log1p(
        np.bincount(first[iou > _ALIKE], minlength=n) + np.bincount(second[iou > _ALIKE], minlength=n)
    )
    order = np.arange(n) if trust is None else np.argsort(-trust, kind="stable")
    same: list[list[int]] = [[] for _ in range(n)]
    for a, b in zip(first[iou > _SAME].tolist(), second[iou > _SAME].tolist(), strict=True):
        same[a].append(b)
        same[b].append(a)
    dropped = np.zeros(n, np.bool_)
    kept = []
    for i in order.tolist():
        if not dropped[i]:
            kept.append(i)
            dropped[same[i]] = True
    places = np.asarray(kept, np.int64)
    return places, alike[places].astype(np.float32)


def _similar_pairs(
    crops: list[Crop], packed: Words
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Pairs i < j of nearly equal area whose boxes overlap by half, and their IoU: few of all pairs."""
    box = np.array([(c.x, c.y, c.x + c.inside.shape[1], c.y + c.inside.shape[0]) for c in crops], np.float32)
    area = np.array([c.inside.sum() for c in crops], np.float32)
    size = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    low, high = np.maximum(box[:, None, :2], box[None, :, :2]), np.minimum(box[:, None, 2:], box[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    near = shared > 0.5 * (size[:, None] + size[None, :] - shared)
    near &= np.minimum(area[:, None], area[None, :]) > 0.7 * np.maximum(area[:, None], area[None, :])
    first, second = np.nonzero(np.triu(near, 1))
    both = np.bitwise_count(packed[first] & packed[second]).sum(axis=1, dtype=np.int64)
    cells = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
    union = np.maximum(cells[first] + cells[second] - both, 1)
    return first.astype(np.int64), second.astype(np.int64), (both / union).astype(np.float32)


def _unions(
    crops: list[Crop], packed: Words, prior: Floats, work_hw: tuple[int, int], most: int = 60
) -> list[Crop]:
    """Unions of touching candidates that no candidate covers to 85 % both; of the best ones only, since
    unions of all would be background."""
    best = np.argsort(-prior, kind="stable")[:most]
    _, covered = overlap_maps(packed, packed[best])
    joins: list[Crop] = []
    for a in range(len(best)):
        for b in range(a + 1, len(best)):
            one, other = crops[int(best[a])], crops[int(best[b])]
            if covered[best[a], b] > 0.1 or covered[best[b], a] > 0.1 or not _touch(one, other):
                continue
            if not ((covered[:, a] >= _UNION_COVER) & (covered[:, b] >= _UNION_COVER)).any():
                joins.append(_joined(one, other))
                if len(joins) == most:
                    return joins
    return joins


def _touch(a: Crop, b: Crop) -> bool:
    """Whether two masks lie side by side: less than two pixels apart."""
    ah, aw = a.inside.shape
    bh, bw = b.inside.shape
    if a.x > b.x + bw + 1 or b.x > a.x + aw + 1 or a.y > b.y + bh + 1 or b.y > a.y + ah + 1:
        return False
    x0, y0 = min(a.x, b.x) - 1, min(a.y, b.y) - 1
    shape = (max(a.y + ah, b.y + bh) + 1 - y0, max(a.x + aw, b.x + bw) + 1 - x0)
    first, second = np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
    first[a.y - y0 : a.y - y0 + ah, a.x - x0 : a.x - x0 + aw] = a.inside
    second[b.y - y0 : b.y - y0 + bh, b.x - x0 : b.x - x0 + bw] = b.inside
    return bool((cv2.dilate(first, np.ones((3, 3), np.uint8))[second] > 0).any())


def _joined(a: Crop, b: Crop) -> Crop:
    ah, aw = a.inside.shape
    bh, bw = b.inside.shape
    x0, y0 = min(a.x, b.x), min(a.y, b.y)
    both = np.zeros((max(a.y + ah, b.y + bh) - y0, max(a.x + aw, b.x + bw) - x0), np.uint8)
    both[a.y - y0 : a.y - y0 + ah, a.x - x0 : a.x - x0 + aw] |= a.inside
    both[b.y - y0 : b.y - y0 + bh, b.x - x0 : b.x - x0 + bw] |= b.inside
    closed = cv2.morphologyEx(np.pad(both, 2), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))[2:-2, 2:-2]
    return Crop(x0, y0, np.asarray(closed > 0))
