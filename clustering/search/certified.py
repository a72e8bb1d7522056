"""Our policy: learn a verifier, certify one set of instances by a test, audit what is delivered.

A pool gets up to three attempts (``_plan``). An attempt asks three search batches, to learn from, and one
calibration sample, to test on. After the last attempt comes the audit. Every question carries the number of
its phase, and a phase is derived from the answers of earlier phases alone: nothing depends on the order in
which answers arrive, and withdrawing an answer means calling with the log without it.

Why the promise holds. The candidate sets of an attempt are fixed by answers of earlier phases. Its
calibration answers are then drawn uniformly from the loosest set and used for nothing else in that attempt:
they are a simple random sample of each set, which ``_sets`` tests (learn then test: Angelopoulos et al. 2021,
arXiv 2110.01052). The promise is about what is delivered: the certified set without the members that were
found wrong. The attempts share ``delta`` between them. A later attempt replaces the set of an earlier one
only when it certifies a set on its own; its verifier may learn from earlier calibration answers, because it
draws fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clustering.answers import Action, AnswerLog, PolicyStep, verified_labels
from clustering.evidence import Noise, noise_from_gold
from clustering.pool import Pool
from clustering.search._certificate import certify
from clustering.search._delivery import audit, believable_labels, reject_tail, verify_each
from clustering.search._parts import DecisionRows, QuestionRows, check_arguments, label_members
from clustering.search._plan import Plan, make_plan
from clustering.search._step import StepInput, Verifiers
from clustering.trees import ClusterTree

__all__ = ["Certified"]

_GOLD_PART = 0.2
"""Part of the error spent on the chance that gold misjudges the verdicts."""


class Certified:
    """Certify that the accepted masks are at least ``purity`` pure, wrong with probability at most ``delta``.

    Parameters
    ----------
    purity : promised share of good masks among the accepted ones, in (0.5, 1). Where verdicts are noisy, a
        single yes labels its mask only if it makes the mask at least that likely to be good
    delta : probability, over the draws (and the verdicts' noise), that the promise is broken at any time
    sensitivity, specificity : P(yes | good) and P(no | bad) of a verdict, where they are known
    gold : estimate them instead: yes among the good gold items, their number, no among the bad ones, their
        number; the uncertainty is paid for out of ``delta``
    effort : multiplies the number of questions
    audit : answers of the final audit; None = about a fifth of the rest, 0 = no audit
    sheets : put calibration and audit questions on contact sheets

    Raises
    ------
    ValueError : a value is out of its range, or the gold says too little
    """

    name = "certified"

    def __init__(
        self,
        *,
        purity: float = 0.85,
        delta: float = 0.05,
        sensitivity: float = 1.0,
        specificity: float = 1.0,
        gold: Sequence[int] | None = None,
        effort: float = 1.0,
        audit: int | None = None,
        sheets: bool = True,
    ) -> None:
        if not 0.5 < purity < 1.0:
            raise ValueError(f"purity is {purity}: it must lie strictly between 0.5 and 1")
        if not 0.0 < delta < 0.5:
            raise ValueError(f"delta is {delta}: it must lie strictly between 0 and 0.5")
        if effort <= 0:
            raise ValueError(f"effort is {effort}: it must be positive")
        self.purity, self.delta, self.effort = purity, delta, effort
        self.noise = Noise(sensitivity=sensitivity, specificity=specificity)
        self._test_delta = delta
        if gold is not None:
            if len(gold) != 4 or not (0 <= gold[0] <= gold[1] and 0 <= gold[2] <= gold[3]):
                raise ValueError(f"gold is {gold}: it must be yes among good, good, no among bad, bad")
            # part of the error pays for not knowing exactly how verdicts err
            _, self.noise = noise_from_gold(*gold, alpha=_GOLD_PART * delta)
            self._test_delta = (1.0 - _GOLD_PART) * delta
        self.audit, self.sheets = audit, sheets
        self._verifiers = Verifiers()

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        """See ``SearchPolicy``. Time O(n + m²) for m answers; the first step also reads the embeddings."""
        check_arguments(tree, pool, log, budget)
        n = len(pool)
        plan = make_plan(
            max(n, 1),
            purity=self.purity,
            delta=self._test_delta,
            noise=self.noise,
            effort=self.effort,
            audit=self.audit,
        )
        questions, rows = QuestionRows(budget), DecisionRows(0.95)
        at = StepInput(
            tree=tree,
            pool=pool,
            log=log,
            seed=seed,
            plan=plan,
            purity=self.purity,
            noise=self.noise,
            sheets=self.sheets,
            questions=questions,
            verifiers=self._verifiers,
        )
        if plan.verify_all:
            done = verify_each(at)
            label, decision = label_members(tree, rows.build(), log)
            return PolicyStep(questions.build(), rows.build(), label, decision, done)
        accepted, done = certify(at)
        label = believable_labels(at, verified_labels(log, n))
        decision = np.full(n, -1, np.int64)
        if accepted is not None:
            row = rows.add(
                Plan.tag(accepted.phase),
                Action.ACCEPT,
                asked=accepted.test.asked,
                yes=accepted.test.yes,
                test="exact and betting tests in sequence",
                bounds=(self.purity, 1.0, 1.0 - self.delta),
            )
            open_members = np.setdiff1d(accepted.members, np.concatenate([log.item, accepted.withheld]))
            label[open_members] = 1
            decision[open_members] = row
            done = done and audit(at, accepted, rows)
        if done:
            reject_tail(at, rows, label, decision)
        return PolicyStep(questions.build(), rows.build(), label, decision, done)
