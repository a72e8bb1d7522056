"""Our policy: certify one set of masks that nobody has to see, and ask about the others while that pays.

1. *Search*: some questions teach the verifier which masks are good. Lessons (predictions on pictures that
   people drew on) and answers of earlier rounds take their place.
2. *Certificate*: a random sample of the most promising masks tests candidate sets (``_sets``). Up to three
   attempts.
3. *Audit*: a random sample of what was accepted; it can take the certificate back.
4. *Harvest*: the other masks are asked about one by one, best first, as long as it pays (``_harvest``).

Every question carries the number of its phase, and a phase is derived from the answers of earlier phases
alone: nothing depends on the order in which answers arrive, and withdrawing an answer means calling with the
log without it.

The promise. With probability at least 1 - delta, over the random draws and the errors of people: for every
certificate of the project, of the masks that it accepted unseen at least a share ``purity`` is good; and
where people err, the same holds for the masks that they said yes to. Where answers are taken as true, a mask
that people said yes to is good by definition. A mask counts as unseen if nobody had seen it when it was
accepted; later looks at some of these masks take out the wrong ones. What people draw, and what they change
in Label Studio, is outside of the claim.

Assumptions, and where they are made true:

* Candidate sets are fixed before their calibration answers are seen: they are cut from the verifier of
  earlier phases (``StepInput.estimate``), which reads the first answer of one person where people err, not a
  verdict that later answers move.
* Calibration answers are a simple random sample of the loosest set: rows of the log count only where they lie
  in the draw of their phase, and answers behind a gap do not count (``_sets.test_sets``).
* Seeds are fresh: the caller gives every certificate a seed of its own.
* Each certificate spends ``delta * 6 / (pi**2 * number**2)``. Its tests share that: two parts (unseen masks,
  masks with a yes) where people err, three attempts with up to three stages each, the fallback procedure over
  the sets of a stage.
* Answers are true, or err independently, a yes to a good or to a bad mask being no likelier than stated.
  Estimated from gold, that holds with a probability that ``delta`` pays for (``evidence.noise_from_gold``),
  if gold masks are at least as hard as the masks of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.answers import Action, AnswerLog, Forecast, PolicyStep, Stream, verified_labels
from clustering.arrays import Floats, Ints
from clustering.costs import DRAWN_MASK_S, QUESTION_S, SHEET_MASK_S, SHEET_S, Costs
from clustering.evidence import Noise, clopper_pearson, noise_from_gold
from clustering.project_pool import ProjectPool
from clustering.search._certificate import Accepted, audit, certify
from clustering.search._harvest import forecast, harvest, harvest_bar
from clustering.search._parts import DecisionRows, QuestionRows, check_arguments
from clustering.search._plan import (
    GOLD_PART,
    REJECT,
    SINGLE_PART,
    Plan,
    Terms,
    calibration_phase,
    error_of_certificate,
)
from clustering.search._singles import CUTS, Singles, answer_runs, test_singles
from clustering.search._step import StepInput, Verifiers

__all__ = ["LABEL_ESTIMATE", "Certified"]

Labels = npt.NDArray[np.int8]

_USUAL = Noise(sensitivity=0.95, specificity=0.9)
"""How answers are planned for while only gold tells how people err."""
LABEL_ESTIMATE = "estimate for one label"
"""``Decisions.test`` of the purity of one label: an estimate beside the promise over all labels."""
_LABEL_PRIOR = 20.0
"""Answers that the purity over all labels counts for in the estimate of one label."""


class Certified:
    """Accept masks of which at least a share ``purity`` is good, wrong with probability at most ``delta``.

    Parameters
    ----------
    purity : promised share of good masks among those accepted unseen, in (0.5, 1); see the top of this module
    delta : probability that a promise of the project is ever broken
    sensitivity, specificity : P(yes | good) and P(no | bad) of one answer, where they are known. The promise
        holds if people say yes to good masks no more often than stated, and no to bad ones no less often:
        where in doubt, state a high sensitivity and a low specificity
    gold : estimate them instead: yes among the good gold items, their number, no among the bad ones, their
        number; the uncertainty is paid for out of ``delta``. With too little gold nothing is certified yet
    audit : answers of the final audit; None = 48 at most, 0 = no audit
    sheets : put questions on contact sheets
    harvest : go on asking about masks one by one after the certificate, while that pays
    question_s, sheet_s, sheet_mask_s, drawn_mask_s : human seconds, see ``clustering.costs``

    Raises
    ------
    ValueError : a value is out of its range
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
        audit: int | None = None,
        sheets: bool = True,
        harvest: bool = True,
        question_s: float = QUESTION_S,
        sheet_s: float = SHEET_S,
        sheet_mask_s: float = SHEET_MASK_S,
        drawn_mask_s: float = DRAWN_MASK_S,
    ) -> None:
        if not 0.5 < purity < 1.0:
            raise ValueError(f"purity is {purity}: it must lie strictly between 0.5 and 1")
        if not 0.0 < delta < 0.5:
            raise ValueError(f"delta is {delta}: it must lie strictly between 0 and 0.5")
        if audit is not None and (not isinstance(audit, int) or audit < 0):
            raise ValueError(f"audit is {audit!r}: it must be 0 or more answers, a whole number")
        for name, switch in (("sheets", sheets), ("harvest", harvest)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} is {switch!r}: it must be true or false")
        self.purity, self.delta = purity, delta
        self.plan_noise = Noise(sensitivity=sensitivity, specificity=specificity)
        if gold is not None:
            if not isinstance(gold, list | tuple) or not all(isinstance(count, Integral) for count in gold):
                raise ValueError(f"gold is {gold!r}: it must be a list of whole numbers")
            if len(gold) != 4 or not (0 <= gold[0] <= gold[1] and 0 <= gold[2] <= gold[3]):
                raise ValueError(f"gold is {gold}: it must be yes among good, good, no among bad, bad")
            if self.plan_noise.exact:
                self.plan_noise = _USUAL
        self.gold = None if gold is None else tuple(gold)
        self.audit, self.sheets, self.harvest = audit, sheets, harvest
        self.costs = Costs(
            question=question_s, sheet=sheet_s, sheet_mask=sheet_mask_s, drawn_mask=drawn_mask_s
        )
        self._verifiers = Verifiers()

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """See ``SearchPolicy``. Time O(n + m) and a fit of the verifier; the first step also reads the
        embeddings."""
        check_arguments(project, log, budget)
        n = len(project)
        questions, rows = QuestionRows(budget), DecisionRows(0.95)
        if not n:
            none = np.zeros(0, np.int64)
            return PolicyStep(questions.build(), rows.build(), none.astype(np.int8), none, True)
        terms = self._terms(certificate)
        at = StepInput(
            project=project,
            log=log,
            seed=seed,
            plan=Plan.of(n, purity=terms.purity, noise=terms.plan_noise, audit=self.audit),
            terms=terms,
            questions=questions,
            verifiers=self._verifiers,
        )
        accepted, tested, done = certify(at)
        if accepted is not None and done:
            done, holds = audit(at, accepted, rows)
            if not holds:
                accepted = None
        label, singles = self._single_labels(at, rows)
        decision = np.full(n, -1, np.int64)
        covered = np.zeros(n, bool)
        if accepted is not None:
            covered[accepted.members] = True
            row = self._certificate_row(at, accepted, rows)
            unseen = accepted.members[~at.asked[accepted.members]]
            label[unseen], decision[unseen] = 1, row
        if done and self.harvest:
            done = harvest(at, covered, np.zeros(0, np.int64) if singles is None else singles.open)
        now = at.estimate(None)
        if done:
            _reject_rest(at, now.p_good, rows, label, decision)
        coming = np.zeros(0, np.int64) if tested is None else tested.order[: tested.likely]
        return PolicyStep(
            questions.build(),
            rows.build(),
            label,
            decision,
            done,
            p_yes=now.p_good.astype(np.float32),
            p_lessons=now.p_lessons.astype(np.float32),
            forecast=Forecast.nothing() if done else forecast(at, covered, coming),
        )

    def _terms(self, certificate: int) -> Terms:
        """What is promised: by how much answers may err, and what is left of the error for the tests."""
        alpha = error_of_certificate(self.delta, certificate)
        noise: Noise | None = self.plan_noise
        if self.gold is not None:
            try:
                _, noise = noise_from_gold(*self.gold, alpha=GOLD_PART * alpha)
            except ValueError:
                noise = None  # too little gold yet: questions go on, nothing is certified
            alpha *= 1.0 - GOLD_PART
        return Terms(self.purity, alpha, self.plan_noise, noise, self.costs, self.sheets)

    def _single_labels(self, at: StepInput, rows: DecisionRows) -> tuple[Labels, Singles | None]:
        """(n,) int8 labels that people's own answers give to the masks they saw."""
        n = len(at.project)
        label = verified_labels(at.log, n)
        if at.terms.exact:
            return label, None
        log = at.log
        trials = (log.stream != Stream.SEARCH) & (log.stream != Stream.CARRIED) & (log.phase >= 0)
        count, run = answer_runs(log.item[trials], log.answer[trials], n)
        first = at.estimate(calibration_phase(0)).p_good
        order: Ints = np.argsort(-first, kind="stable").astype(np.int64)
        ends = np.unique(np.searchsorted(-first[order], -np.array(CUTS), side="right"))
        if at.terms.noise is None:
            waiting = np.flatnonzero((run == count) & (count > 0) & (count < 2))
            label[label > 0] = 0
            return label, Singles(np.zeros(n, bool), waiting, 0, 0)
        alpha = at.terms.alpha * SINGLE_PART
        found = test_singles(
            order, ends, count, run, purity=at.terms.purity, noise=at.terms.noise, alpha=alpha
        )
        label[(label > 0) & ~found.accepted] = 0
        if found.yes:
            rows.add(
                Action.ACCEPT,
                asked=found.asked,
                yes=found.yes,
                test="yes of people who err",
                bounds=(self.purity, 1.0, 1.0 - self.delta),
            )
        return label, found

    def _certificate_row(self, at: StepInput, accepted: Accepted, rows: DecisionRows) -> int:
        """The decision behind the unseen masks, and estimates for each label beside it."""
        test = accepted.test
        row = rows.add(
            Action.ACCEPT,
            phase=accepted.phase,
            asked=test.asked,
            yes=test.yes,
            test="certificate over all labels",
            bounds=(self.purity, 1.0, 1.0 - self.delta),
        )
        if len(at.project.pools) > 1:
            said = at.answers(accepted.phase, Stream.CALIBRATION)
            pooled = (test.yes + 0.5) / (test.asked + 1.0)
            for number in np.unique(at.project.label[accepted.members]).tolist():
                mine = accepted.sampled[at.project.label[accepted.sampled] == number]
                yes = int(np.nansum(said[mine]))
                # shrunken towards all labels, as if a few answers more had been given (beta-binomial)
                low, high = _beta_interval(
                    yes + _LABEL_PRIOR * pooled, len(mine) - yes + _LABEL_PRIOR * (1.0 - pooled)
                )
                rows.add(
                    Action.ACCEPT,
                    label=number,
                    phase=accepted.phase,
                    asked=len(mine),
                    yes=yes,
                    test=LABEL_ESTIMATE,
                    bounds=(low, high, 0.9),
                )
        return row


def _beta_interval(good: float, bad: float) -> tuple[float, float]:
    """The middle 90 % of a beta distribution with so many good and bad answers."""
    low, high = special.betaincinv(max(good, 1e-6), max(bad, 1e-6), [0.05, 0.95])
    return float(low), float(high)


def _reject_rest(at: StepInput, p_good: Floats, rows: DecisionRows, label: Labels, decision: Ints) -> None:
    """Reject, in place, the masks that were not worth asking about, if the answers near them agree.

    Nothing is promised about rejected masks: they are only not shown to annotators.
    """
    tail = ~at.asked & (label == 0) & (p_good < np.clip(harvest_bar(at), REJECT / 2.0, REJECT))
    if not tail.any():
        return
    log = at.log
    near = (p_good[log.item] < REJECT) & (log.stream != Stream.AUDIT)
    asked, yes = int(near.sum()), int(at.said[near].sum())
    lower, upper = (float(bound) for bound in clopper_pearson(yes, asked, alpha=0.05))
    if asked and yes <= REJECT * asked:
        row = rows.add(
            Action.REJECT,
            asked=asked,
            yes=yes,
            test="not worth asking, without a promise",
            bounds=(lower, upper, 0.9),
        )
        label[tail], decision[tail] = -1, row
