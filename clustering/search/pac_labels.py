"""PAC labels (Candès, Ilyas & Zrnic 2025, arXiv 2506.10908): people label what the detector is unsure of.

With U = 1 - score × quality as the uncertainty of a mask, all masks with U below a threshold are accepted
unseen, and people are asked about the others. The error left is L(u) = the number of bad masks with U < u,
divided by the number of all masks. It grows with u. A random sample of draws, each answered with a known
probability and weighted by its inverse, gives an upper bound of L(u) by betting (Waudby-Smith & Ramdas 2024).
The thresholds are tried from the smallest up to the first that fails; as L is monotone, this costs nothing:
with probability 1 - delta the error of the *whole* set stays below 1 - ``purity``. That is less than a
promise about the masks accepted unseen, of which more than that share may be bad.
"""

from __future__ import annotations

import numpy as np

from clustering.answers import Action, AnswerLog, PolicyStep, Stream, verified_labels
from clustering.arrays import Bools, Floats, Ints
from clustering.evidence import betting_log_wealth
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

__all__ = ["PacLabels"]

_SAMPLE_PHASE = 0
_THRESHOLDS = 200
"""Thresholds that are tried: quantiles of the uncertainty."""


class PacLabels:
    """Accept what the detector is sure of, as far as the error of the whole set is bounded; ask for the rest.

    Parameters
    ----------
    purity : 1 - purity bounds the share of wrong labels in the whole set, in (0, 1)
    delta : probability that the bound fails
    sample : expected answers of the random sample; None = as many as the certified policy spends on search
        and test
    least : least probability with which a drawn mask is asked about; unsure ones are asked about surely
    sheets : put questions on contact sheets
    seconds : ``question_s``, ``sheet_s``, ``sheet_mask_s``, ``drawn_mask_s``, see ``clustering.costs``

    Raises
    ------
    ValueError : a value is out of its range
    TypeError : there is no such option
    """

    name = "pac-labels"

    def __init__(
        self,
        *,
        purity: float = 0.85,
        delta: float = 0.05,
        sample: int | None = None,
        least: float = 0.5,
        sheets: bool = True,
        **seconds: float,
    ) -> None:
        if not 0.0 < purity < 1.0:
            raise ValueError(f"purity is {purity}: it must lie strictly between 0 and 1")
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta is {delta}: it must lie strictly between 0 and 1")
        if not 0.0 < least <= 1.0:
            raise ValueError(f"least is {least}: it must lie in (0, 1]")
        if sample is not None and sample < 1:
            raise ValueError(f"sample is {sample}: it must be 1 or more answers")
        self.purity, self.delta, self.sample, self.least = purity, delta, sample, least
        self.sheets = sheets
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
        if not n:
            return PolicyStep(questions.build(), rows.build(), label, decision, True)
        uncertain = 1.0 - prior
        draw, asked, chance = self._draws(uncertain, seed)
        known = answered(log, n)
        wanted = np.unique(draw[asked])
        missing = wanted[~known[wanted]]
        if len(missing):
            ask_on_sheets(
                missing,
                prior,
                questions,
                costs=self.costs,
                sheets=self.sheets,
                phase=_SAMPLE_PHASE,
                stream=Stream.CALIBRATION,
                inclusion=chance[missing],
            )
            return PolicyStep(questions.build(), rows.build(), label, decision, False)
        wrong = np.where(asked & (label[draw] <= 0), 1.0 / chance[draw], 0.0)
        threshold = self._threshold(uncertain, uncertain[draw], wrong)
        sure = uncertain < threshold
        if sure.any():
            mine = wanted[sure[wanted]]
            yes = int((label[mine] > 0).sum())
            row = rows.add(
                Action.ACCEPT, asked=len(mine), yes=yes, test=self.name, bounds=(0.0, 1.0, 1.0 - self.delta)
            )
            label[sure & ~known], decision[sure & ~known] = 1, row
        p_good = platt_scaled(prior, log.item, log.yes)
        done = ask_best_first(log, p_good, ~known & ~sure, questions, costs=self.costs, sheets=self.sheets)
        p_yes = p_good.astype(np.float32)
        return PolicyStep(questions.build(), rows.build(), label, decision, done, p_yes=p_yes)

    def _draws(self, uncertain: Floats, seed: int) -> tuple[Ints, Bools, Floats]:
        """Draws with replacement, which of them are asked about, and (n,) the chance of each mask to be."""
        n = len(uncertain)
        # errors are where the detector is unsure: the variance is least with the root of their probability
        chance = np.clip(
            np.sqrt(np.maximum(uncertain, 0.0) / max(float(uncertain.max()), 1e-9)), self.least, 1.0
        )
        answers = usual_sample(n) if self.sample is None else self.sample
        draws = max(1, round(answers / float(chance.mean())))
        rng = np.random.default_rng([seed, _SAMPLE_PHASE])
        draw = rng.integers(0, n, draws)
        return draw, rng.random(draws) < chance[draw], chance

    def _threshold(self, uncertain: Floats, drawn: Floats, wrong: Floats) -> float:
        """The largest threshold whose bound holds, tried from below; 0 where none does.

        Parameters
        ----------
        uncertain : (n,) of all masks
        drawn : (m,) uncertainty of the draws; wrong : (m,) their weighted errors
        """
        found = 0.0
        most = max(1.0 / self.least, 1.0)
        grid = np.quantile(uncertain, np.linspace(0.0, 1.0, _THRESHOLDS + 1)[1:])
        for threshold in [*np.unique(grid).tolist(), np.inf]:
            left = 1.0 - np.where(drawn < threshold, wrong, 0.0)
            wealth = betting_log_wealth(left, share=self.purity, floor=1.0 - most)
            if float(wealth.max()) < -np.log(self.delta):
                break
            found = threshold
        return float(found)
