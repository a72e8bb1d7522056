"""Duplicate and near-duplicate pictures among finished tasks, and leaks: such pictures on both sides of the
test split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clustering.duplicates import alike_groups, differing_bits
from sync.mistakes.fingerprints import Fingerprint, words_of

__all__ = ["MOST_BITS", "Twins", "find_twins"]

MOST_BITS: Final = 24
"""bits of 256 in which the hashes of nearly equal pictures differ at most"""
_MOST: Final = 500
"""members of a group that each one is compared with"""


@dataclass(frozen=True, slots=True)
class Twins:
    """Two tasks with the same picture (``exact``) or nearly the same. ``leaks``: ``task`` is tested on and
    ``other`` trained on."""

    task: int
    other: int
    exact: bool
    leaks: bool


def find_twins(
    found: Mapping[int, Fingerprint], tested: Collection[int], series: Mapping[int, str]
) -> list[Twins]:
    """One entry for each task that repeats another: the one with the lowest number of its group, or, for a
    task that is tested on, one that is trained on.

    ``series`` names tasks that are known to belong together: nearly equal pictures of one series are no news.
    """
    by_sha: dict[str, list[int]] = {}
    for task in sorted(found):
        by_sha.setdefault(found[task].sha, []).append(task)
    twins = _exact([tasks for tasks in by_sha.values() if len(tasks) > 1], tested)
    known = {each.task for each in twins}
    first = [tasks[0] for tasks in by_sha.values() if found[tasks[0]].bits]
    words = words_of(found, first)
    group, _ = alike_groups(words, MOST_BITS)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
    for part in parts:
        if len(part) > 1:
            members = [(task, row) for row in part.tolist() for task in by_sha[found[first[row]].sha]]
            near = _near(sorted(members), words, tested, series)
            twins += [each for each in near if each.task not in known]
    return twins


def _exact(groups: Sequence[Sequence[int]], tested: Collection[int]) -> list[Twins]:
    pairs = []
    for group in groups:
        trained = [task for task in group if task not in tested]
        for task in group:
            if task in tested and trained:
                pairs.append(Twins(task, trained[0], True, leaks=True))
            elif task != (trained or group)[0]:
                pairs.append(Twins(task, (trained or group)[0], True, leaks=False))
    return pairs


def _near(
    members: Sequence[tuple[int, int]],
    words: npt.NDArray[np.uint16],
    tested: Collection[int],
    series: Mapping[int, str],
) -> list[Twins]:
    """``members`` are tasks and their rows in ``words``; a group may be a chain, so each pair is measured."""
    pairs = []
    for place, (task, row) in enumerate(members):
        rivals = [(other, at) for other, at in members if at != row and other not in tested]
        leaks = task in tested and bool(rivals)
        if not leaks:  # each pair once
            rivals = [(other, at) for other, at in members[:place] if at != row]
        rivals = [
            (other, at)
            for other, at in rivals[:_MOST]
            if task not in series or series[task] != series.get(other)
        ]
        if not rivals:
            continue
        apart = differing_bits(words[[at for _, at in rivals]], words[[row] * len(rivals)])
        if apart.min() <= MOST_BITS:
            pairs.append(Twins(task, rivals[int(apart.argmin())][0], False, leaks=leaks))
    return pairs
