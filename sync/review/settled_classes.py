"""Which pictures are settled to be of the other one of two classes, by a no to the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clustering.answers import final_verdicts
from ml_backend.artifacts.other_class import other_classes
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.kinds.registry import Wanted
from sync.review.decide import Plan
from sync.rounds.cluster import frozen_kinds
from sync.rounds.policies import reads_first_answers
from sync.settings import Settings

__all__ = ["pictures_of_other_class"]

_SETTLED: Final = 0.05
"""how likely the class may still be after all answers"""


def pictures_of_other_class(
    plan: Plan, settings: Settings, wanted: Sequence[Wanted], paths: ProjectPaths, number: int
) -> frozenset[int]:
    """Rows of the project's pool that people rejected for good, and whose class has just one alternative.

    One person's no is enough where answers are taken as true. Where people may err, all answers together must
    leave at most 5 % for the class. A policy that reads first answers rejects on a single no, and so an
    expert's word is needed. A no that was said while there were other labels may have meant one of those.
    """
    other = other_classes(wanted)
    pools = plan.outcome.pools
    paired = np.concatenate(
        [np.full(len(pool), pool.label in other) for pool in pools] or [np.zeros(0, bool)]
    )
    now = {label for target in wanted for label in target.labels}

    def had_others(before: int) -> bool:
        then = frozen_kinds(paths, before)
        return then is not None and then.keys() != now

    if not paired.any() or had_others(number):
        return frozenset()
    if reads_first_answers(settings):
        refused = np.array([row for row, value in plan.log.decided.items() if value < 0.5], np.int64)
    else:
        items, yes = final_verdicts(plan.log.log)
        refused = items[yes <= _SETTLED]
    if any(map(had_others, range(1, number))):
        refused = refused[~np.isin(refused, sorted(plan.log.carried))]
    done = plan.outcome.propagation
    rejected = (done.label < 0) & done.verified & paired
    return frozenset(refused[rejected[refused]].tolist())
