"""Quotas: an order of tasks in which the classes come up in wanted shares.

A loop that only serves what its model is least sure of may serve one class for weeks. active-learning-detect
(2018) draws a wanted share of every batch from each class, pictures without a detection being a class of
their own. It goes through the classes as they are listed, so the first one takes the pictures that
show several classes; what a rare class lacks is not made up by the others; and shares hold for one batch
size only. Here each picture is taken for the class that lags most behind its share, and counts in equal parts
for all classes that it shows. So no class is served first because of its place in a list, every prefix keeps
the shares as well as the supply allows, and what a class lacks goes to the others in proportion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from clustering.arrays import Bools, Floats, Ints

__all__ = ["NOTHING", "apply_quotas", "shares_of"]

NOTHING = "NULL"
"""The name of the share of pictures on which nothing was found."""
_TOLERANCE = 0.01


def shares_of(balance: Mapping[str, float], labels: Sequence[str]) -> Floats:
    """(k + 1,) float64: the share of each label, and last that of pictures on which nothing was found.

    ``balance`` holds one share for each label and one for ``NULL``. They sum to 1 (± .01; the result sums to
    1). Raises ValueError, saying which name is missing or unknown, or what the shares sum to.
    """
    if NOTHING in labels:
        raise ValueError(f"a label called {NOTHING!r} cannot be told from pictures without anything")
    names = (*labels, NOTHING)
    for name in names:
        if name not in balance:
            raise ValueError(f"there is no share of {name!r}")
    for name in balance:
        if name not in names:
            raise ValueError(f"{name!r} is no label")
    shares = np.array([balance[name] for name in names], np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        raise ValueError("a share must be a number from 0 to 1")
    total = float(shares.sum())
    if abs(total - 1.0) > _TOLERANCE + 1e-9:
        raise ValueError(f"the shares sum to {total:.3g} instead of 1")
    return shares / total


def apply_quotas(order: Ints, classes_of_task: Bools, shares: Floats) -> Ints:
    """The tasks of ``order`` in an order whose every prefix keeps the shares as well as the supply allows.

    Parameters
    ----------
    order : (n,) rows of ``classes_of_task``, each once, the most wanted task first (least confident, or most)
    classes_of_task : (n, k) bool, whether something of the class was found in the task. A task without any
        is one of the class "nothing found"
    shares : (k + 1,) float64, not negative: the wanted share of each class, and last of "nothing found"

    Returns (n,) the same rows. A task counts in equal parts for those of its classes that have a share. Next
    comes the first task in ``order`` of the class with the smallest (count + 1/2) / share among those that
    have tasks left (the method of Webster and Sainte-Laguë: with one class per task each prefix of t tasks
    holds within one of t·share while there is supply). So the share of a class that ran out goes to the
    others in proportion to theirs. Between classes that are equally far behind, the one whose task comes
    first in ``order`` is next. Tasks of no class with a share follow at the end, in order.

    Raises ValueError when the shapes do not fit or ``order`` is no permutation. Time: O(n·k + m log k), m
    the number of (task, class) pairs.
    """
    n, k = classes_of_task.shape
    if shares.shape != (k + 1,):
        raise ValueError(f"{len(shares)} shares for {k} classes and 'nothing found'")
    if len(order) != n or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"the order must hold each of {n} tasks once")
    ranked = classes_of_task[order]
    member = np.column_stack([ranked, ~ranked.any(axis=1)]) & (shares > 0)
    size = member.sum(axis=1)
    # columns by class: the ranks of its tasks, ascending, with n behind the last
    queues = [np.append(np.flatnonzero(column), n).tolist() for column in member.T]
    # by rank: the classes of its task, columns[ends[rank] : ends[rank + 1]]
    columns, ends = np.nonzero(member)[1].tolist(), [0, *np.cumsum(size).tolist()]
    head, count, share = [0] * (k + 1), [0.5] * (k + 1), shares.tolist()
    # one entry per class that has tasks left: how far it is, the rank of its next task, the class
    waiting = [(0.5 / share[c], queues[c][0], c) for c in range(k + 1) if len(queues[c]) > 1]
    heapify(waiting)
    taken = [False] * (n + 1)  # the place behind the last is never taken
    served: list[int] = []
    while waiting:
        behind, rank, first = heappop(waiting)
        if taken[rank] or behind != count[first] / share[first]:  # it changed with a task of another class
            while taken[queues[first][head[first]]]:
                head[first] += 1
            rank = queues[first][head[first]]
            if rank < n:
                heappush(waiting, (count[first] / share[first], rank, first))
            continue
        taken[rank] = True
        served.append(rank)
        mine = columns[ends[rank] : ends[rank + 1]]
        for c in mine:
            count[c] += 1.0 / len(mine)
        heappush(waiting, (behind, rank, first))  # brought up to date when its turn comes
    rest = np.flatnonzero(size == 0)
    result: Ints = order[np.concatenate([np.array(served, np.int64), rest])].astype(np.int64)
    return result
