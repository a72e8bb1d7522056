"""The published rule in the project: what it counts as yes."""

from __future__ import annotations

import numpy as np

from clustering.answers import Action, AnswerLog
from clustering.project_pool import ProjectPool
from clustering.search import Original
from tests.clustering.search_pools import flat_pool


def test_verdicts_on_people_who_err_count_as_yes_or_no() -> None:
    """A yes of somebody who errs at times is no 0.9 of a yes: the published rule counts answers."""
    tree, pool, _ = flat_pool(60)
    project = ProjectPool.single(pool, tree)
    asked = Original().step(project, AnswerLog.empty(), budget=15, seed=0).questions
    said = np.arange(15) < 13
    log = AnswerLog.empty().extended(asked, said, np.where(said, 0.905, 0.05))
    step = Original().step(project, log, budget=0, seed=0)
    assert (step.decisions.yes[0], step.decisions.action[0]) == (13, Action.ACCEPT)
