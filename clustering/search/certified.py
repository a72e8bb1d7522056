"""Our policy: learn a verifier, certify one set of instances by a valid anytime test, audit what is
delivered.

A look has three search batches (to learn from) and one calibration (to test on); after the last look comes
the audit. Every question carries the number of its phase, and everything a phase needs is derived from the
answers of earlier phases: nothing depends on the order in which answers arrive, and withdrawing one is the
log without it.

Why the promise holds. The sets of a look are fixed by answers of earlier phases. Its calibration answers are
drawn uniformly from the loosest set afterwards and are not used for anything else in that look, so they are
a simple random sample of each set (see ``_sets``). The promise is about what is delivered: the certified set
without the members that were found wrong. The looks share
``delta``. A later look only replaces the set of an earlier one when it certifies a set on its own, and its
verifier may learn from the earlier look's calibration answers because it draws fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clustering.answers import AUDIT, Action, AnswerLog, PolicyStep, Stream
from clustering.evidence.answer_noise import Noise, noise_from_gold, rogan_gladen
from clustering.evidence.intervals import clopper_pearson, hypergeometric_interval
from clustering.pool import Pool
from clustering.search._parts import (
    DecisionRows,
    QuestionRows,
    check_arguments,
    final_verdicts,
    label_members,
    verified_labels,
)
from clustering.search._plan import BATCHES, Look, Plan, make_plan
from clustering.search._sets import NestedSets, SetTest, evaluate_sets, nest_sets
from clustering.search._sheets import cut_sheets
from clustering.trees.tree import ClusterTree
from clustering.verifier import Features, fit_verifier, make_features

__all__ = ["Certified"]

Ints = npt.NDArray[np.int64]

_WORTH_A_LOOK = 1.5
"""A further look must promise this many times the masks that are certified already."""
_UNIFORM = 0.3
"""Least relative chance of an instance to be drawn in a search batch."""
_FITS_KEPT = 16
_GOLD_PART = 0.2
"""Part of the error spent on the chance that gold misjudges the verdicts."""
_REJECT = 0.1
"""Masks are rejected where at most that share is good: to delete ten wrong ones takes about as long as to
draw a missing one."""
_TAILS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Predicted shares of good ones that tails are tried at, largest first."""
_WORTH_ASKING = 0.25
"""In pools where each instance is asked about: least predicted share of yes."""
_VERIFIED_TOGETHER = 20
_CHUNK = 60
"""Calibration questions asked together: sheets are made within a chunk, the test reads whole prefixes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Accepted:
    """A certified set: its members, the phase that certified it, the test's outcome; the members whose
    question of the test is still open count as wrong there, so they are not delivered.
    """

    members: Ints
    phase: int
    test: SetTest
    withheld: Ints


class Certified:
    """Certify that the accepted masks are at least ``purity`` pure, wrong with probability at most ``delta``.

    Parameters
    ----------
    purity : promised share of good masks among the accepted ones, in (0.5, 1); of noisy verdicts,
        single yes answers count only where they make a mask at least that likely to be good
    delta : probability, over the draws (and the verdicts' noise), that the promise is broken at any time
    sensitivity, specificity : P(yes | good) and P(no | bad) of a verdict, where they are known
    gold : estimate them instead: yes among the good gold items, their number, no among the bad ones, their
        number; the uncertainty is paid for out of ``delta``
    effort : multiplies the number of questions
    audit : answers of the final audit; None = about a fifth of the rest, 0 = no audit
    sheets : put calibration and audit questions on contact sheets
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
        # all three only save time: the same arguments give the same answer without them
        self._features: tuple[Pool, Features] | None = None
        self._fits: dict[bytes, npt.NDArray[np.float32]] = {}
        self._nested: dict[int, tuple[npt.NDArray[np.float32], NestedSets | None]] = {}

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        """See ``SearchPolicy``. Time O(n + m²); the first look of a pool reads its embeddings too."""
        check_arguments(tree, pool, log, budget)
        n = len(pool)
        questions = QuestionRows(budget)
        plan = make_plan(
            max(n, 1),
            purity=self.purity,
            delta=self._test_delta,
            noise=self.noise,
            effort=self.effort,
            audit=self.audit,
        )
        rows = DecisionRows(0.95)
        at = _Look(tree, pool, log, plan, seed, questions)
        if plan.verify_all:
            done = self._verify_each(at)
            label, decision = label_members(tree, rows.build(), log)
            return PolicyStep(questions.build(), rows.build(), label, decision, done)
        accepted, done = self._certify(at)
        label = self._credible(at, verified_labels(log, n))
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
            done = done and self._audit(at, accepted, rows)
        if done:
            self._reject(at, rows, label, decision)
        return PolicyStep(questions.build(), rows.build(), label, decision, done)

    def _verify_each(self, at: _Look) -> bool:
        """Ask about the instances of a pool too small for a test, best first, some at a time; True when the
        rest is not worth asking about.
        """
        p_yes, known = self._verifier(at, Plan.phase(len(at.plan.looks), 0))
        left = np.flatnonzero(~known & (p_yes >= _WORTH_ASKING))
        ask = left[np.argsort(-p_yes[left], kind="stable")][:_VERIFIED_TOGETHER].astype(np.int64)
        at.questions.add(ask, cluster=Plan.tag(0), stream=Stream.SEARCH, inclusion=1.0)
        return not len(ask)

    def _credible(self, at: _Look, label: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Take back the yes of noisy verdicts that leave a mask less likely good than promised.

        One yes of a worker who lets one bad mask in ten pass says little about a mask that is almost surely
        bad.
        """
        yes = np.flatnonzero(label > 0)
        if self.noise.exact or not len(yes):
            return label
        p_yes, _ = self._verifier(at, Plan.phase(len(at.plan.looks), 0))
        prior = np.clip(rogan_gladen(p_yes[yes], self.noise), 0.01, 0.99)
        good = prior * self.noise.sensitivity
        bad = (1.0 - prior) * (1.0 - self.noise.specificity)
        label[yes[good < self.purity * (good + bad)]] = 0
        return label

    def _certify(self, at: _Look) -> tuple[_Accepted | None, bool]:
        """Walk through the looks as far as the answers reach; the set certified so far, and whether all is
        done.
        """
        accepted: _Accepted | None = None
        for number, look in enumerate(at.plan.looks):
            if accepted:
                sets, _ = self._sets(at, look, Plan.phase(number, 0))
                if sets is None or sets.likely < _WORTH_A_LOOK * len(accepted.members):
                    break
            if not self._search(at, number, look):
                return accepted, False
            phase = Plan.phase(number, BATCHES)
            sets, p_yes = self._sets(at, look, phase)
            if sets is None or not sets.planned:
                continue
            test, unanswered = self._calibrate(at, sets, p_yes, look, phase)
            if test.certified > (len(accepted.members) if accepted else 0):
                accepted = _Accepted(sets.order[: test.certified], phase, test, unanswered)
            if not test.closed:
                return accepted, False
        return accepted, True

    def _sets(self, at: _Look, look: Look, phase: int) -> tuple[NestedSets | None, npt.NDArray[np.float32]]:
        p_yes, known = self._verifier(at, phase)
        made_from, sets = self._nested.get(phase, (None, None))
        if made_from is not p_yes:
            sets = nest_sets(
                p_yes,
                ~known,
                purity=self.purity,
                noise=self.noise,
                alpha=look.alpha,
                min_set=at.plan.min_set,
                most=look.calibrate,
            )
            self._nested[phase] = (p_yes, sets)
        return sets, p_yes

    def _verifier(self, at: _Look, phase: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """P(yes) of all instances and which have a verdict, from answers of phases before it only."""
        earlier = at.log.take((_phase_of(at.log) < phase) & (at.log.stream != Stream.AUDIT))
        items, yes = final_verdicts(earlier)
        known = np.zeros(len(at.pool), bool)
        known[items] = True
        if self._features is None or self._features[0] is not at.pool:
            self._features = (at.pool, make_features(at.pool))
            self._fits.clear()
        key = b"|".join((items.tobytes(), yes.tobytes(), str((id(at.tree), at.seed)).encode()))
        if key not in self._fits:
            while len(self._fits) >= _FITS_KEPT:
                del self._fits[next(iter(self._fits))]
            self._fits[key] = fit_verifier(self._features[1], at.tree, items, yes, seed=at.seed)
        return self._fits[key], known

    def _search(self, at: _Look, number: int, look: Look) -> bool:
        """Ask what is missing of the search batches of a look; True when all of them are answered.

        Answers carried over from an earlier pool teach as much, so that many fewer are asked.
        """
        spare = len(np.unique(at.log.item[_phase_of(at.log) < 0]))
        for earlier in at.plan.looks[:number]:
            spare = max(0, spare - sum(earlier.search))
        for batch, whole in enumerate(look.search):
            quota, spare = max(0, whole - spare), max(0, spare - whole)
            phase = Plan.phase(number, batch)
            answered = at.log.item[(at.log.cluster == Plan.tag(phase)) & (at.log.stream == Stream.SEARCH)]
            if len(np.unique(answered)) >= quota:
                continue
            p_yes, known = self._verifier(at, phase)
            # partly uniform, the rest where the verifier knows least
            weight = _UNIFORM + (1.0 - _UNIFORM) * 4.0 * p_yes * (1.0 - p_yes)
            key = -np.log1p(-at.random(phase)) / weight
            key[known] = np.inf
            quota = min(quota, int(len(known) - known.sum()))
            draw = _smallest(key, quota)
            missing = quota - len(np.unique(answered))
            wanted = draw[~np.isin(draw, answered)][: max(0, missing)]
            if not len(wanted):
                continue
            # order sampling with exponential keys: drawn iff the key is below the first one left out
            bar = np.partition(key, quota)[quota] if quota < len(key) else np.inf
            inclusion = np.maximum(-np.expm1(-weight[wanted] * min(bar, 1e6)), 1e-12)
            at.questions.add(wanted, cluster=Plan.tag(phase), stream=Stream.SEARCH, inclusion=inclusion)
            return False
        return True

    def _calibrate(
        self, at: _Look, sets: NestedSets, p_yes: npt.NDArray[np.float32], look: Look, phase: int
    ) -> tuple[SetTest, Ints]:
        """Test the sets with the answers there are; ask on where that is worth it. The second value are the
        unanswered ones of the draw.
        """
        planned = sets.planned
        rank = _smallest(at.random(phase)[sets.order], planned)
        draw = sets.order[rank]
        verdict = at.verdicts(phase, Stream.CALIBRATION)[draw]
        # easy questions may be answered sooner than hard ones: what the answers behind a gap say about the
        # set is only safe with the missing ones taken for no, and whether to stop is decided without them
        gaps = np.flatnonzero(np.isnan(verdict))
        prefix = int(gaps[0]) if len(gaps) else planned
        last = planned - int(np.argmax(~np.isnan(verdict[::-1]))) if prefix < planned else planned

        def test_first(t: int) -> SetTest:
            yes = np.nan_to_num(verdict[:t]).astype(np.float64)
            return evaluate_sets(sets, rank[:t], yes, noise=self.noise, alpha=look.alpha)

        test = test_first(prefix)
        if prefix < last and not np.isnan(verdict).all():
            beyond = test_first(last)
            if beyond.certified > test.certified:
                everything = beyond.certified == len(sets.order)
                test = replace(beyond, closed=test.closed or everything)
        if not test.closed:
            self._ask(
                at.questions, draw, verdict, p_yes, phase, Stream.CALIBRATION, planned / len(sets.order)
            )
        return test, draw[np.isnan(verdict)]

    def _audit(
        self,
        at: _Look,
        accepted: _Accepted,
        rows: DecisionRows,
    ) -> bool:
        """Sample the delivered set uniformly; the row of the finished audit is what gets published."""
        p_yes, known = self._verifier(at, accepted.phase + 1)
        members = accepted.members[~known[accepted.members]]
        planned = min(at.plan.audit, len(members))
        if not planned:
            return True
        draw = members[_smallest(at.random(accepted.phase, salt=1)[members], planned)]
        verdict = at.verdicts(accepted.phase, Stream.AUDIT)[draw]
        if np.isnan(verdict).any():
            share = planned / len(members)
            self._ask(at.questions, draw, verdict, p_yes, accepted.phase, Stream.AUDIT, share)
            return False
        yes = int(verdict.sum())
        if self.noise.exact:
            low, high = hypergeometric_interval(yes, planned, len(members), alpha=0.025)
        else:
            low, high = (rogan_gladen(b, self.noise) for b in clopper_pearson(yes, planned, alpha=0.025))
        rows.add(
            Plan.tag(accepted.phase),
            Action.ACCEPT,
            asked=planned,
            yes=yes,
            test=AUDIT,
            bounds=(float(low), float(high), 0.95),
        )
        return True

    def _reject(self, at: _Look, rows: DecisionRows, label: npt.NDArray[np.int8], decision: Ints) -> None:
        """Reject, in place, the largest tail of the verifier's order that its answers speak against.

        Nothing is promised about rejected masks: they are only not shown to annotators. The answers inside
        the tail lean towards its better end, where more is asked, so that their share of yes is cautious.
        """
        p_yes, known = self._verifier(at, Plan.phase(len(at.plan.looks), 0))
        prior = rogan_gladen(p_yes, self.noise)
        learnt = at.log.take(at.log.stream == Stream.SEARCH)
        items, yes = final_verdicts(learnt)
        for bar in _TAILS:
            tail = (prior <= bar) & ~known & (label == 0)
            if not tail.any() or float(prior[tail].mean()) > _REJECT / 2.0:
                continue
            inside = prior[items] <= bar
            asked, said = int(inside.sum()), int((yes[inside] > 0.5).sum())
            bounds = [float(rogan_gladen(b, self.noise)) for b in clopper_pearson(said, asked, alpha=0.05)]
            if asked and bounds[1] <= _REJECT:
                row = rows.add(
                    Plan.tag(len(at.plan.looks) * (BATCHES + 1)),
                    Action.REJECT,
                    asked=asked,
                    yes=said,
                    test="verifier, without a promise",
                    bounds=(bounds[0], bounds[1], 0.9),
                )
                label[tail], decision[tail] = -1, row
                return

    def _ask(
        self,
        questions: QuestionRows,
        draw: Ints,
        verdict: npt.NDArray[np.float32],
        p_yes: npt.NDArray[np.float32],
        phase: int,
        stream: Stream,
        inclusion: float,
    ) -> None:
        """Ask the unanswered members of a draw, chunk by chunk; sheets are cut from whole chunks to be
        stable.
        """
        for chunk, begin in enumerate(range(0, len(draw), _CHUNK)):
            if not questions.room:
                return
            items, answered = draw[begin : begin + _CHUNK], ~np.isnan(verdict[begin : begin + _CHUNK])
            if answered.all():
                continue
            order: Ints = np.arange(len(items))
            sheet: Ints = np.full(len(items), -1, np.int64)
            if self.sheets:
                first = ((phase * len(Stream) + stream) * 10_000 + chunk) * _CHUNK
                order, sheet = cut_sheets(p_yes[items], first_sheet=first)
            left = ~answered[order]
            questions.add(
                items[order[left]],
                cluster=Plan.tag(phase),
                stream=stream,
                inclusion=inclusion,
                sheet=sheet[left],
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """The arguments of one step."""

    tree: ClusterTree
    pool: Pool
    log: AnswerLog
    plan: Plan
    seed: int
    questions: QuestionRows

    def random(self, phase: int, *, salt: int = 0) -> npt.NDArray[np.float64]:
        """(n,) a number per instance and phase: draws stay nearly the same when sets change a little."""
        return np.random.default_rng([self.seed, phase, salt]).random(len(self.pool))

    def verdicts(self, phase: int, stream: Stream) -> npt.NDArray[np.float32]:
        """(n,) float32: 1 yes, 0 no (undecided counts as no), NaN not answered in this phase and stream."""
        verdict = np.full(len(self.pool), np.nan, np.float32)
        rows = (self.log.cluster == Plan.tag(phase)) & (self.log.stream == stream)
        verdict[self.log.item[rows]] = self.log.yes[rows] > 0.5
        return verdict


def _phase_of(log: AnswerLog) -> Ints:
    """(m,) phase of each answer; -1 for answers that no phase asked for, such as those carried over."""
    return np.maximum(-2 - log.cluster, -1)


def _smallest(key: npt.NDArray[np.float64], k: int) -> Ints:
    """Indices of the k smallest keys, in their order."""
    if k < len(key):
        some = np.argpartition(key, k)[:k]
        return some[np.argsort(key[some], kind="stable")]
    return np.argsort(key, kind="stable")[:k]
