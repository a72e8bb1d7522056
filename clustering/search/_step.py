"""What one step of the certified policy works with: its arguments, its random draws, its verifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Stream, final_verdicts
from clustering.arrays import Bools, Floats, Ints
from clustering.evidence import Noise
from clustering.pool import Pool
from clustering.search._parts import QuestionRows
from clustering.search._plan import Attempt, Plan
from clustering.search._sets import NestedSets, nest_sets
from clustering.search._sheets import cut_sheets
from clustering.trees import ClusterTree
from clustering.verifier import Features, fit_verifier, make_features

__all__ = ["StepInput", "Verifiers", "smallest"]

_FITS_KEPT = 16
_CHUNK = 60
"""Questions of one draw that are asked together. Contact sheets are made within a chunk, because the test
reads the answers of whole prefixes of the draw."""


@dataclass(frozen=True, slots=True, eq=False)
class StepInput:
    """Everything that one call of ``Certified.step`` knows, and the questions it collects.

    Attributes
    ----------
    tree, pool, log, seed : arguments of the step
    plan : how many questions may be spent on what
    purity : promised share of good masks
    noise : how verdicts err
    sheets : put questions of calibration and audit on contact sheets
    questions : collects what to ask next
    verifiers : fits the verifier
    """

    tree: ClusterTree
    pool: Pool
    log: AnswerLog
    seed: int
    plan: Plan
    purity: float
    noise: Noise
    sheets: bool
    questions: QuestionRows
    verifiers: Verifiers

    def random(self, phase: int, *, salt: int = 0) -> Floats:
        """(n,) float64 in 0..1, one number per instance and phase.

        The number of an instance does not depend on the set it is drawn from: a draw stays nearly the same
        when the set changes a little.
        """
        return np.random.default_rng([self.seed, phase, salt]).random(len(self.pool))

    def verdicts(self, phase: int, stream: Stream) -> npt.NDArray[np.float32]:
        """(n,) float32: 1 yes, 0 no (undecided counts as no), NaN not answered in this phase and stream."""
        verdict = np.full(len(self.pool), np.nan, np.float32)
        rows = (self.log.cluster == Plan.tag(phase)) & (self.log.stream == stream)
        verdict[self.log.item[rows]] = self.log.yes[rows] > 0.5
        return verdict

    def verifier(self, phase: int) -> tuple[npt.NDArray[np.float32], Bools]:
        """(n,) float32 P(yes) of every instance and (n,) bool which have a verdict, from answers of the
        phases before ``phase`` only; answers of the audit are never learnt from.
        """
        earlier = self.log.take((Plan.phases_of(self.log) < phase) & (self.log.stream != Stream.AUDIT))
        items, yes = final_verdicts(earlier)
        known = np.zeros(len(self.pool), bool)
        known[items] = True
        return self.verifiers.fit(self.tree, self.pool, items, yes, seed=self.seed), known

    def sets(self, attempt: Attempt, phase: int) -> tuple[NestedSets | None, npt.NDArray[np.float32]]:
        """The candidate sets of an attempt, cut from the verifier of ``phase``, and that verifier."""
        p_yes, known = self.verifier(phase)
        return self.verifiers.nest(self, p_yes, known, attempt, phase), p_yes

    def ask_draw(
        self,
        draw: Ints,
        verdict: npt.NDArray[np.float32],
        p_yes: npt.NDArray[np.float32],
        *,
        phase: int,
        stream: Stream,
        inclusion: float,
    ) -> None:
        """Ask the unanswered members of a draw, chunk by chunk.

        Sheets are cut from whole chunks, answered members included: so a question keeps its sheet while the
        others of the chunk are answered.

        Parameters
        ----------
        draw : (k,) instances in the order of the draw
        verdict : (k,) float32, NaN = not answered
        p_yes : (n,) predicted P(yes)
        inclusion : probability with which a member was drawn
        """
        for chunk, begin in enumerate(range(0, len(draw), _CHUNK)):
            if not self.questions.room:
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
            self.questions.add(
                items[order[left]],
                cluster=Plan.tag(phase),
                stream=stream,
                inclusion=inclusion,
                sheet=sheet[left],
            )


class Verifiers:
    """Fits verifiers and cuts their candidate sets; keeps the latest of both.

    Keeping only saves time: the same arguments give the same result without it.
    """

    def __init__(self) -> None:
        self._features: tuple[Pool, Features] | None = None
        self._fits: dict[bytes, npt.NDArray[np.float32]] = {}
        self._nested: dict[int, tuple[npt.NDArray[np.float32], NestedSets | None]] = {}

    def fit(
        self, tree: ClusterTree, pool: Pool, items: Ints, yes: npt.NDArray[np.float32], *, seed: int
    ) -> npt.NDArray[np.float32]:
        """(n,) float32: see ``fit_verifier``."""
        if self._features is None or self._features[0] is not pool:
            self._features = (pool, make_features(pool))
            self._fits.clear()
        key = b"|".join((items.tobytes(), yes.tobytes(), str((id(tree), seed)).encode()))
        if key not in self._fits:
            while len(self._fits) >= _FITS_KEPT:
                del self._fits[next(iter(self._fits))]
            self._fits[key] = fit_verifier(self._features[1], tree, items, yes, seed=seed)
        return self._fits[key]

    def nest(
        self, at: StepInput, p_yes: npt.NDArray[np.float32], known: Bools, attempt: Attempt, phase: int
    ) -> NestedSets | None:
        """See ``nest_sets``; ``p_yes`` must be what ``fit`` returned."""
        made_from, sets = self._nested.get(phase, (None, None))
        if made_from is not p_yes:
            sets = nest_sets(
                p_yes,
                ~known,
                purity=at.purity,
                noise=at.noise,
                alpha=attempt.alpha,
                min_set=at.plan.min_set,
                most=attempt.calibrate,
            )
            self._nested[phase] = (p_yes, sets)
        return sets


def smallest(key: Floats, k: int) -> Ints:
    """(min(k, len(key)),) int64: indices of the k smallest keys, smallest first."""
    if k < len(key):
        some = np.argpartition(key, k)[:k]
        return some[np.argsort(key[some], kind="stable")]
    return np.argsort(key, kind="stable")[:k]
