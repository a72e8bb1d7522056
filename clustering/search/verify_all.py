"""Verify everything on sheets, best first: no mask is accepted that nobody saw."""

from __future__ import annotations

import numpy as np

from clustering.answers import AnswerLog, PolicyStep, verified_labels
from clustering.project_pool import ProjectPool
from clustering.search._parts import DecisionRows, QuestionRows, check_arguments
from clustering.search._scores import answered, ask_best_first, costs_of, platt_scaled

__all__ = ["VerifyAll"]


class VerifyAll:
    """Ask about one mask after the other, best first, until the answers bring less than they cost.

    The order is that of score × quality, scaled to probabilities by the answers so far (Platt 1999). A
    baseline: a detector is of use to it only by the order of the questions.

    Parameters
    ----------
    sheets : put questions on contact sheets
    seconds : ``question_s``, ``sheet_s``, ``sheet_mask_s``, ``drawn_mask_s``, see ``clustering.costs``

    Raises
    ------
    ValueError : a time is negative
    TypeError : there is no such option
    """

    name = "verify-all"

    def __init__(self, *, sheets: bool = True, **seconds: float) -> None:
        self.sheets = sheets
        self.costs = costs_of(seconds)

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """See ``SearchPolicy``. Time O(n log n)."""
        check_arguments(project, log, budget)
        questions = QuestionRows(budget)
        n = len(project)
        p_good = platt_scaled(project.columns.prior, log.item, log.yes)
        done = ask_best_first(log, p_good, ~answered(log, n), questions, costs=self.costs, sheets=self.sheets)
        return PolicyStep(
            questions.build(),
            DecisionRows(0.95).build(),
            verified_labels(log, n),
            np.full(n, -1, np.int64),
            done,
            p_yes=p_good.astype(np.float32),
        )
