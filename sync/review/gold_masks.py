"""Masks of known truth for gold questions, and masks made clearly wrong for the instructions.

Gold must be at least as hard as the masks of the pool, or it flatters people who let nearly right masks pass.
So it shows what the model itself found on pictures where people drew every object: good masks, and wrong ones
that the model likes most. At most one in four of the wrong ones is clearly wrong (IoU up to 0.5), while there
are others. Only where there are too few predictions, drawn masks take their place, as they are or made
slightly wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.instances import Rle
from ml_backend.kinds.base import ProjectKind
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.rounds.known_masks import KnownMasks

__all__ = ["choose_gold", "half", "merged", "shifted", "wrong_mask"]

_NEARLY = 0.25
"""A wrong mask is a near miss when its IoU is less than this below that of a good one."""
_SLIGHTLY_WRONG = (0.2, 0.01)
"""How far the IoU of drawn masks that are made wrong for gold lies below that of good ones."""
Masks = Iterable[tuple[int, Rle]]
"""tasks, and masks on their pictures"""


def choose_gold(
    drawn: Sequence[tuple[int, Rle]],
    known: KnownMasks | None,
    label: str,
    kind: ProjectKind,
    count: int,
    rng: np.random.Generator,
    *,
    taken: set[str],
) -> list[tuple[int, Rle]]:
    """At most ``count`` (task, mask) of this label, good and bad by turns.

    Parameters
    ----------
    drawn : (task, mask) that people drew, those to be preferred first
    known : predictions of known truth
    kind : kind of the label: of whole pictures, only predictions can be wrong
    taken : keys of masks that were asked about; those chosen are added
    """
    good, bad = _predicted(known, label, kind, rng)
    made = () if kind.unit == "picture" else _made(drawn, kind, rng)
    # which kind comes first is drawn: most looks need no more than a mask or two
    sources = [
        chain(good, drawn),
        chain(bad, made),
    ]
    kinds = [_fresh(source, label, taken) for source in sources]
    first = int(rng.integers(2))
    found = (next(kinds[(first + i) % 2], None) for i in range(count))
    return [mask for mask in found if mask is not None]


def _made(drawn: Masks, kind: ProjectKind, rng: np.random.Generator) -> Masks:
    """Drawn masks made slightly wrong, one at a time as they are asked for."""
    for task, rle in drawn:
        made = wrong_mask(rle, rng, good_iou=kind.good_iou)
        if made is not None:
            yield task, made


def _fresh(masks: Masks, label: str, taken: set[str]) -> Iterator[tuple[int, Rle]]:
    """Those that were not asked about, noted as asked."""
    for task, rle in masks:
        key = instance_key(task, label, str(rle["counts"]))
        if key not in taken:
            taken.add(key)
            yield task, rle


def _predicted(
    known: KnownMasks | None, label: str, kind: ProjectKind, rng: np.random.Generator
) -> tuple[list[tuple[int, Rle]], list[tuple[int, Rle]]]:
    """Good predictions in random order; wrong ones, those that the model likes most first."""
    if known is None or label not in known.labels:
        return [], []
    mine = known.label == known.labels.index(label)
    prior = known.table.score * known.table.quality
    wrong = np.flatnonzero(mine & ~known.good)
    wrong = wrong[np.argsort(-prior[wrong], kind="stable")]
    is_near = known.iou[wrong] > kind.good_iou - _NEARLY
    near, far = np.flatnonzero(is_near), np.flatnonzero(~is_near)
    # each clearly wrong one waits until three near misses for it stand before it
    behind = np.append(near, np.full(3 * len(far), len(wrong)))[3 * np.arange(1, len(far) + 1) - 1]
    place = np.arange(len(wrong), dtype=np.float64)
    place[far] = np.maximum(far, behind + 0.5)
    wrong = wrong[np.argsort(place, kind="stable")]
    good = rng.permutation(np.flatnonzero(mine & known.good))
    rows = ([(int(known.picture[i]), known.table.rle(int(i))) for i in some] for some in (good, wrong))
    first, second = rows
    return first, second


def shifted(rle: Rle) -> Rle | None:
    """The mask moved towards the middle of the image by about half its size; None when too little changes."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    height, width = mask.shape
    dx = round(0.4 * (x1 - x0)) * (1 if x0 + x1 < width else -1)
    dy = round(0.3 * (y1 - y0)) * (1 if y0 + y1 < height else -1)
    return _different(mask, _moved(mask, dx, dy))


def half(rle: Rle) -> Rle | None:
    """One half of the mask, cut across its longer side; None when too little changes."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    cut = mask.copy()
    if x1 - x0 >= y1 - y0:
        cut[:, (x0 + x1) // 2 :] = 0
    else:
        cut[(y0 + y1) // 2 :, :] = 0
    return _different(mask, cut)


def merged(rle: Rle, others: Sequence[Rle]) -> Rle | None:
    """The mask together with its nearest neighbour; None when none is nearer than the mask is large."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    far = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    best: tuple[float, npt.NDArray[np.uint8]] | None = None
    for other_rle in others:
        other = decode_rle(other_rle).astype(np.uint8)
        if other.shape != mask.shape or not other.any():
            continue
        gap = float(far[other > 0].min())
        if gap <= max(x1 - x0, y1 - y0) and (best is None or gap < best[0]):
            best = gap, other
    return None if best is None else _different(mask, mask | best[1])


def _different(mask: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> Rle | None:
    """The ``other`` mask, if it clearly differs (IoU at most 0.7) and is not empty; None otherwise."""
    union = int((mask | other).sum())
    if not other.any() or int((mask & other).sum()) > 0.7 * union:
        return None
    return encode_mask(other)


def _bounds(mask: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """First column, end column, first row, end row."""
    y, x = np.nonzero(mask)
    return int(x.min()), int(x.max()) + 1, int(y.min()), int(y.max()) + 1


def _moved(mask: npt.NDArray[np.uint8], dx: int, dy: int) -> npt.NDArray[np.uint8]:
    height, width = mask.shape
    shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return np.asarray(cv2.warpAffine(mask, shift, (width, height), flags=cv2.INTER_NEAREST), np.uint8)


def wrong_mask(rle: Rle, rng: np.random.Generator, *, good_iou: float = 0.75) -> Rle | None:
    """A drawn mask moved, grown or cut until its IoU with the mask as drawn is a little below ``good_iou``.

    A filled box stays one.

    None when no amount of any of the three gives such a mask.
    """
    least, most = (good_iou - by for by in _SLIGHTLY_WRONG)
    mask = decode_rle(rle).astype(np.uint8)
    y, x = np.nonzero(mask)
    size = max(int(np.ptp(x)), int(np.ptp(y)), 2) + 1
    ways = [int(way) for way in rng.permutation(3)]
    for way in ways:
        for amount in dict.fromkeys(max(1, round(step * size / 24)) for step in range(1, 24)):
            other = _made_wrong(mask, way, amount, rng)
            union = int((mask | other).sum())
            iou = int((mask & other).sum()) / max(union, 1)
            if least <= iou <= most:
                return encode_mask(other)
            if iou < least:
                break
    return None


def _made_wrong(
    mask: npt.NDArray[np.uint8], way: int, amount: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    if way == 0:
        return _moved(mask, amount, amount // 2)
    if way == 1:
        kernel = np.ones((2 * amount + 1, 2 * amount + 1), np.uint8)
        return np.asarray(cv2.dilate(mask, kernel), np.uint8)
    cut = mask.copy()
    columns = np.flatnonzero(mask.any(axis=0))
    cut[:, columns[: min(amount, len(columns) - 1)]] = 0
    return cut
