"""Initial pseudo labels: clusters of proposals around peaks of the class responses (CIM, "AGPL").

Peaks come from the responses, or from points that people set; a drawn mask is a cluster of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.learners.weak.bags import Bag

__all__ = ["IGNORED", "Clusters", "initial_clusters"]

IGNORED = -1
_SAME = 0.5
_WEAK_PEAK = 0.5
_MOST_PEAKS = 200

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """``cluster`` (n,) int64, number of each proposal's cluster or -1; ``label`` (k,) int64 of the clusters;
    ``background`` (n,) bool, proposals that overlap an object without being it."""

    cluster: Ints
    label: Ints
    background: Bools


def initial_clusters(bag: Bag, response: Floats, contrast: Bools) -> Clusters:
    """Clusters of a bag from ``response`` (n, C); ``contrast`` (C,) says which labels some pictures lack.

    The strongest peaks claim first. In a label without contrast nothing says what is *not* it, so proposals
    that look least like objects are background too.
    """
    n = len(bag)
    cluster = np.full(n, IGNORED, np.int64)
    background = np.zeros(n, np.bool_)
    label: list[int] = []
    iou = bag.iou.astype(np.float32)
    for value, members in _peaks(bag, response, iou):
        near = _core_iou(bag, members, response[:, value])
        mine = (near > _SAME) & (cluster == IGNORED)
        if not mine.any():
            continue
        cluster[mine] = len(label)
        label.append(value)
        background |= (near > 0) & (near <= _SAME)
    if bag.tags.any() and not contrast[bag.tags].any() and n:
        background |= bag.prior <= np.quantile(bag.prior, 0.25)
        background |= bag.big
    if not label:
        background[:] = True
    background &= cluster == IGNORED
    background[bag.given >= 0] = False
    return Clusters(cluster, np.asarray(label, np.int64), background)


def _peaks(bag: Bag, response: Floats, iou: Floats) -> list[tuple[int, Bools]]:
    """(label, proposals that cover the peak), the strongest first; what people drew before all else."""
    found: list[tuple[float, int, Bools]] = []
    exact = {int(v) for v in bag.given[bag.given >= 0]} | {label for label, _ in bag.points}
    for i in np.flatnonzero(bag.given >= 0).tolist():
        only = np.zeros(len(bag), np.bool_)
        only[i] = True
        found.append((2.0, int(bag.given[i]), only))
    found += [(2.0, value, covering) for value, covering in bag.points if covering.any()]
    cover = bag.cover.astype(np.float32)
    for value in np.flatnonzero(bag.tags).tolist():
        if value in exact:  # people said where all objects of this label are
            continue
        strength = np.where(bag.big, 0, response[:, value])
        free = np.ones(len(bag), np.bool_)
        top = float(strength.max(initial=0))
        for i in np.argsort(-strength, kind="stable").tolist():
            if strength[i] < _WEAK_PEAK * top or strength[i] <= 0 or len(found) >= _MOST_PEAKS:
                break
            if not free[i]:
                continue
            # the proposals around the middle of this one: they cover half of it at least
            around = (cover[:, i] > _SAME) & (iou[i] > 0.25)
            around[i] = True
            found.append((float(strength[i]), value, around))
            free &= (iou[i] <= _SAME) & (cover[i] <= _SAME) & (cover[:, i] <= _SAME)
    found.sort(key=lambda entry: -entry[0])
    return [(value, members) for _, value, members in found]


def _core_iou(bag: Bag, members: Bools, response: Floats) -> Floats:
    """(n,) IoU of every proposal with the peak's core: where the weighted mean of its proposals is over 0.7.

    The proposal that fits this mean best stands for the core, so that the overlap maps can be used.
    """
    iou = bag.iou.astype(np.float32)
    inside = np.flatnonzero(members)
    weight = response[inside] + 1e-6
    central = inside[int(np.argmax((iou[np.ix_(inside, inside)] * weight[None, :]).sum(axis=1) * weight))]
    return np.asarray(iou[central], np.float32)
