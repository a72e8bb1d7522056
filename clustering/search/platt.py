"""Score calibrated by a random sample, and cut: the simplest rule that accepts masks nobody saw.

A baseline: it promises nothing, as its estimate of the purity is taken for the truth.
"""

from __future__ import annotations

import numpy as np

from clustering.answers import Action, AnswerLog, PolicyStep, Stream, verified_labels
from clustering.arrays import Floats, Ints
from clustering.evidence import Noise, rogan_gladen
from clustering.project_pool import ProjectPool
from clustering.search._parts import DecisionRows, QuestionRows, check_arguments
from clustering.search._scores import (
    answered,
    ask_best_first,
    ask_on_sheets,
    costs_of,
    platt_scaled,
    usual_sample,
)

__all__ = ["Platt"]

_SAMPLE_PHASE = 0


class Platt:
    """Ask about a random sample, scale score × quality by it (Platt 1999), accept the largest good set.

    Good: the mean estimated probability of its masks is at least ``purity``. One scale for all labels.

    Parameters
    ----------
    purity : wanted share of good masks among those accepted unseen, in (0, 1)
    sample : answers of the random sample; None = as many as the certified policy spends on search and test
    finish : ask about the masks that are not accepted, best first, while that pays
    sheets : put questions on contact sheets
    sensitivity, specificity : P(yes | good) and P(no | bad) of one answer: estimates are corrected for them
    seconds : ``question_s``, ``sheet_s``, ``sheet_mask_s``, ``drawn_mask_s``, see ``clustering.costs``

    Raises
    ------
    ValueError : a value is out of its range
    TypeError : there is no such option
    """

    name = "platt"

    def __init__(
        self,
        *,
        purity: float = 0.85,
        sample: int | None = None,
        finish: bool = False,
        sheets: bool = True,
        sensitivity: float = 1.0,
        specificity: float = 1.0,
        **seconds: float,
    ) -> None:
        if not 0.0 < purity < 1.0:
            raise ValueError(f"purity is {purity}: it must lie strictly between 0 and 1")
        if sample is not None and sample < 1:
            raise ValueError(f"sample is {sample}: it must be 1 or more answers")
        self.purity, self.sample, self.finish, self.sheets = purity, sample, finish, sheets
        self.noise = Noise(sensitivity=sensitivity, specificity=specificity)
        self.costs = costs_of(seconds)

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """See ``SearchPolicy``. Time O(n log n)."""
        check_arguments(project, log, budget)
        questions, rows = QuestionRows(budget), DecisionRows(0.95)
        n = len(project)
        prior = project.columns.prior.astype(np.float64)
        label, decision = verified_labels(log, n), np.full(n, -1, np.int64)
        wanted = min(n, usual_sample(n) if self.sample is None else self.sample)
        draw = np.random.default_rng([seed, _SAMPLE_PHASE]).permutation(n)[:wanted].astype(np.int64)
        known = answered(log, n)
        missing = draw[~known[draw]]
        if len(missing):
            ask_on_sheets(
                missing,
                prior,
                questions,
                costs=self.costs,
                sheets=self.sheets,
                phase=_SAMPLE_PHASE,
                stream=Stream.CALIBRATION,
                inclusion=wanted / n,
            )
            return PolicyStep(questions.build(), rows.build(), label, decision, False)
        accepted = self._accepted(prior, log, draw)
        p_good = self._estimate(prior, log)
        if len(accepted):
            inside = np.isin(draw, accepted)
            yes = int((verified_labels(log, n)[draw[inside]] > 0).sum())
            row = rows.add(Action.ACCEPT, asked=int(inside.sum()), yes=yes, test=self.name)
            unseen = accepted[~known[accepted]]
            label[unseen], decision[unseen] = 1, row
        done = True
        if self.finish:
            done = ask_best_first(
                log, p_good, ~known & (label == 0), questions, costs=self.costs, sheets=self.sheets
            )
        p_yes = p_good.astype(np.float32)
        return PolicyStep(questions.build(), rows.build(), label, decision, done, p_yes=p_yes)

    def _estimate(self, prior: Floats, log: AnswerLog) -> Floats:
        said = log.yes if self.noise.exact else np.nan_to_num(log.answer)
        return rogan_gladen(platt_scaled(prior, log.item, said), self.noise)

    def _accepted(self, prior: Floats, log: AnswerLog, draw: Ints) -> Ints:
        """The largest set of the best masks whose mean estimate is ``purity``, from the sample alone."""
        p_good = self._estimate(prior, log.take(log.stream == Stream.CALIBRATION))
        order = np.argsort(-p_good, kind="stable").astype(np.int64)
        mean = np.cumsum(p_good[order]) / np.arange(1, len(order) + 1)
        return order[: int(np.searchsorted(-mean, -self.purity, side="right"))]
