"""Parts for cross-validation in which nearly equal pictures stay together.

Series of shots of the same thing are common. When one shot is trained on and its neighbour is used to
validate, a model that remembers pictures looks better than one that has learnt the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["fold_of", "look_alikes", "thumbnail"]

_SIDE: Final = 16
_ALIKE: Final = 0.95
_BLOCK: Final = 512
Floats = npt.NDArray[np.float32]


def thumbnail(image: npt.NDArray[np.uint8]) -> Floats:
    """(256,) float32: the picture at 16 x 16 grey pixels, without its brightness and contrast; length 1, or 0
    for an even picture."""
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small.reshape(_SIDE * _SIDE, -1).mean(axis=1)
    grey -= grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 16.0), np.float32)


def look_alikes(thumbnails: Floats) -> npt.NDArray[np.int64]:
    """(n,) number of the group of each picture: pictures whose thumbnails correlate by 0.95 or more are in
    one group, and so are those they are alike to. Time O(n²), memory O(n · 512)."""
    label = np.arange(len(thumbnails))
    for first in range(0, len(thumbnails), _BLOCK):
        rows, columns = np.nonzero(thumbnails[first : first + _BLOCK] @ thumbnails.T >= _ALIKE)
        # merged block by block: one series of n shots has n² pairs
        k = int(label.max()) + 1
        pair = np.unique(label[rows + first].astype(np.int64) * k + label[columns])
        graph = coo_array((np.ones(len(pair), np.bool_), (pair // k, pair % k)), shape=(k, k))
        label = connected_components(graph, directed=False)[1][label]
    return np.asarray(label, np.int64)


def fold_of(
    groups: npt.NDArray[np.int64], truth: npt.NDArray[np.float64], *, folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """(n,) fold of each picture; groups stay whole, and each fold gets about its share of every label.

    Groups are dealt largest first, each to the fold that is shortest of the labels it holds. Folds may be
    empty where groups are fewer.
    """
    rng = np.random.default_rng(seed)
    numbers, sizes = np.unique(groups, return_counts=True)
    shuffled = rng.permutation(len(numbers))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    rarity = 1.0 / np.maximum(truth.sum(axis=0), 1.0)
    filled = np.zeros((folds, truth.shape[1] + 1))
    found = np.zeros(len(groups), np.int64)
    for number in numbers[order]:
        mine = groups == number
        holds = np.append(truth[mine].sum(axis=0) * rarity, mine.sum() / len(groups))
        fold = int(np.argmin(filled @ (holds > 0)))
        filled[fold] += holds
        found[mine] = fold
    return found


def usable_folds(fold: npt.NDArray[np.int64]) -> Sequence[int]:
    """The folds that hold a picture and leave one to train on."""
    numbers = np.unique(fold)
    return [int(number) for number in numbers] if len(numbers) > 1 else []
