"""Complete-instance mining: class scores and integrity become pseudo labels (CIM, section 3.3).

In each tag the best proposals are seeds. A seed is often a part; the proposal that contains it and looks most
complete takes its place. All other proposals get their label from the mined one that they overlap most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.learners.weak.bags import Bag

__all__ = ["MiningSettings", "PseudoLabels", "mine"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CONTAINS: Final = 0.85
_FIRST_CLS, _FIRST_IOU, _STEP = 0.25, 0.5, 0.1
_FIRST_WEIGHT: Final = 3.0
_QUIET_WEIGHT: Final = 0.3


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """``seed_share``: share of the proposals that may be seeds of a tag; ``seed_score``: a seed has at least
    this share of the best class score; ``integrity``: whether complete proposals are looked for."""

    seed_share: float = 0.1
    seed_score: float = 0.3
    integrity: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLabels:
    """Per proposal (n,): ``label`` int64 (0 = background, c + 1 = label c), ``weight`` float32 (0 = ignored),
    ``complete`` float32, 1 where it is nearly the mined instance. ``mined`` int64, the mined proposals."""

    label: Ints
    weight: Floats
    complete: Floats
    mined: Ints


def mine(
    bag: Bag,
    classes: Floats,
    integrity: Floats,
    branch: int,
    settings: MiningSettings,
    rng: np.random.Generator,
    quiet: Bools,
) -> PseudoLabels:
    """Pseudo labels of branch 0, 1 or 2 from the scores (n, C+1) of the branch before it.

    ``quiet`` (n,) marks proposals that are background where they overlap nothing mined (they are ignored
    otherwise). What people drew is taken as it is.
    """
    n = len(bag)
    cls_thr, iou_thr = _FIRST_CLS + _STEP * branch, _FIRST_IOU + _STEP * branch
    mined: dict[int, tuple[int, float]] = {}  # proposal -> (class, weight)
    drawn_labels = {int(v) for v in bag.given[bag.given >= 0]}
    point_labels = {label for label, _ in bag.points}
    for tag in np.flatnonzero(bag.tags).tolist():
        c = tag + 1
        if tag in drawn_labels:
            chosen = [(int(i), 1.0) for i in np.flatnonzero(bag.given == tag)]
        elif tag in point_labels:
            chosen = _at_points(bag, tag, classes[:, c], integrity[:, c])
        else:
            seeds = _seeds(bag, classes[:, c], cls_thr, settings)
            chosen = _complete(bag, seeds, classes[:, c], integrity[:, c], settings)
            chosen = _sample(chosen, rng)
        for g, value in chosen:
            if g not in mined or mined[g][1] < value:
                mined[g] = (c, value)
    if not mined:
        none = np.zeros(0, np.int64)
        # a picture without any tag has background only
        known = np.full(n, 0.0 if bag.tags.any() else 1.0, np.float32)
        return PseudoLabels(np.zeros(n, np.int64), known, np.zeros(n, np.float32), none)
    picked = np.fromiter(mined, np.int64)
    class_of = np.array([mined[g][0] for g in picked.tolist()], np.int64)
    weight_of = np.array([mined[g][1] for g in picked.tolist()], np.float32)
    overlap = bag.iou[:, picked].astype(np.float32)
    nearest = overlap.argmax(axis=1)
    best = overlap[np.arange(n), nearest]
    label = np.where((best >= cls_thr) & ~bag.big, class_of[nearest], 0)
    weight = np.where(best > 0, weight_of[nearest], 0).astype(np.float32)
    weight[(best == 0) & quiet] = _QUIET_WEIGHT * float(weight_of.mean())
    if branch == 0:
        weight *= _FIRST_WEIGHT
    return PseudoLabels(label, weight, (best > iou_thr).astype(np.float32), picked)


def _seeds(bag: Bag, score: Floats, nms: float, settings: MiningSettings) -> list[int]:
    """The best ⌈share · n⌉ by class score after NMS by mask IoU."""
    n = len(bag)
    most = int(np.ceil(settings.seed_share * n))
    order = np.argsort(-score, kind="stable")
    floor = settings.seed_score * float(score[order[0]]) if n else 0.0
    seeds: list[int] = []
    dropped = bag.big.copy()
    if dropped.all():
        dropped[:] = False
    for i in order[:most].tolist():
        if not dropped[i] and score[i] >= floor:
            seeds.append(i)
            dropped |= bag.iou[i] >= nms
    return seeds


def _complete(
    bag: Bag, seeds: list[int], score: Floats, integrity: Floats, settings: MiningSettings
) -> list[tuple[int, float]]:
    """For each seed the most complete proposal that contains it, weighted by class score and integrity."""
    if not settings.integrity:
        return [(seed, float(score[seed])) for seed in seeds]
    found: dict[int, float] = {}
    for seed in seeds:
        contains = (bag.cover[:, seed] > _CONTAINS) & ~bag.big
        contains[seed] = True
        place = np.flatnonzero(contains)
        best = int(place[int(np.argmax(integrity[place]))])
        found[best] = float(score[best] * integrity[best])
    return list(found.items())


def _at_points(bag: Bag, tag: int, score: Floats, integrity: Floats) -> list[tuple[int, float]]:
    """For each point the best proposal that covers it, and as few other points of the label as possible."""
    covering = [inside for label, inside in bag.points if label == tag]
    others = np.sum(covering, axis=0)
    found = []
    for inside in covering:
        place = np.flatnonzero(inside & ~bag.big)
        if len(place):
            value = score[place] * integrity[place] / others[place] ** 2
            found.append((int(place[int(np.argmax(value))]), 1.0))
    return found


def _sample(chosen: list[tuple[int, float]], rng: np.random.Generator) -> list[tuple[int, float]]:
    """Anti-noise sampling: as many draws as there are, by weight with replacement; the distinct ones stay."""
    weight = np.array([w for _, w in chosen])
    total = weight.sum()
    if len(chosen) < 2 or not total > 0:
        return chosen
    drawn = np.unique(rng.choice(len(chosen), len(chosen), p=weight / total))
    return [chosen[i] for i in drawn.tolist()]
