"""What one step of the certified policy works with: its arguments, its random draws, its verifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Stream
from clustering.arrays import Bools, Floats, Ints
from clustering.evidence import rogan_gladen
from clustering.project_pool import ProjectPool
from clustering.search._parts import QuestionRows
from clustering.search._plan import CHUNK, REFIT, Plan, Terms
from clustering.search._sheets import cut_sheets
from clustering.verifier import Features, Verifier, fit_verifier, make_features

__all__ = ["StepInput", "Verifiers", "smallest"]

_FITS_KEPT = 16
_SHEETS_PER_DRAW = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a verifier says about the masks.

    Attributes
    ----------
    p_good : (n,) float64, probability that a mask is good
    p_lessons : (k,) float64, the same of the lessons
    known : (n,) bool, masks with an answer that the verifier has read
    """

    p_good: Floats
    p_lessons: Floats
    known: Bools


@dataclass(eq=False)
class StepInput:
    """Everything that one call of ``Certified.step`` knows, and the questions it collects.

    Attributes
    ----------
    project, log, seed : arguments of the step
    plan : how many questions may be spent on what
    terms : what is promised
    questions : collects what to ask next
    verifiers : fits the verifier
    """

    project: ProjectPool
    log: AnswerLog
    seed: int
    plan: Plan
    terms: Terms
    questions: QuestionRows
    verifiers: Verifiers
    _sheets: int = field(default=0, init=False)

    @cached_property
    def said(self) -> npt.NDArray[np.float32]:
        """(m,) float32: 1 yes, 0 no or neither, of every row of the log."""
        if self.terms.exact:
            return (self.log.yes > 0.5).astype(np.float32)
        return np.nan_to_num(self.log.answer).astype(np.float32)

    @cached_property
    def asked(self) -> Bools:
        """(n,) bool, masks with an answer of their own, of whatever phase."""
        found = np.zeros(len(self.project), bool)
        found[self.log.item[self.log.stream != Stream.CARRIED]] = True
        return found

    def random(self, phase: int, *, salt: int = 0) -> Floats:
        """(n,) float64 in 0..1, one number per instance and phase.

        The number of an instance does not depend on the set it is drawn from: a draw stays nearly the same
        when the set changes a little.
        """
        return np.random.default_rng([self.seed, phase, salt]).random(len(self.project))

    def answers(self, phase: int, stream: Stream) -> npt.NDArray[np.float32]:
        """(n,) float32: 1 yes, 0 no or neither, NaN not answered in this phase and stream."""
        found = np.full(len(self.project), np.nan, np.float32)
        rows = np.flatnonzero((self.log.phase == phase) & (self.log.stream == stream))[::-1]
        found[self.log.item[rows]] = self.said[rows]  # the first answer is written last
        return found

    def estimate(self, phase: int | None) -> Estimate:
        """What was learnt before ``phase`` (of the certificate's own phases); None = from everything.

        Answers of the audit are never learnt from. With None the verifier is fitted again only when the
        answers have grown by a seventh.
        """
        log = self.log
        before = (log.stream != Stream.AUDIT) & (log.stream != Stream.CARRIED)
        if phase is not None:
            before &= log.phase < phase
        rows = np.flatnonzero(before)
        if phase is None:
            rows = rows[: _grid(len(rows))]
        known = np.zeros(len(self.project), bool)
        known[log.item[rows]] = True
        hints = np.flatnonzero(log.stream == Stream.CARRIED)
        noise = self.terms.plan_noise
        fit = self.verifiers.fit(
            self.project,
            log.item[rows],
            self.said[rows],
            log.item[hints],
            (log.yes[hints] > 0.5).astype(np.float32),
            seed=self.seed,
        )
        return Estimate(rogan_gladen(fit.p_yes, noise), rogan_gladen(fit.p_lessons, noise), known)

    def ask(
        self,
        items: Ints,
        answered: Bools,
        p_good: Floats,
        *,
        phase: int,
        stream: Stream,
        inclusion: Floats | float,
    ) -> None:
        """Ask the unanswered ones of some masks, sheet by sheet.

        Sheets are cut from whole chunks, answered masks included: so a question keeps its sheet while the
        others of the chunk are answered.

        Parameters
        ----------
        items : (k,) instances, in an order that does not change while they are answered
        answered : (k,) bool
        p_good : (n,) predicted probability of being good
        inclusion : probability with which they were drawn, (k,) or one number
        """
        drawn = np.broadcast_to(np.asarray(inclusion, np.float64), items.shape)
        for begin in range(0, len(items), CHUNK):
            if not self.questions.room:
                return
            some, done = items[begin : begin + CHUNK], answered[begin : begin + CHUNK]
            if done.all():
                continue
            order: Ints = np.arange(len(some))
            sheet: Ints = np.full(len(some), -1, np.int64)
            if self.terms.sheets:
                first = (phase * len(Stream) + stream) * _SHEETS_PER_DRAW + begin
                order, sheet = cut_sheets(p_good[some], self.terms.costs, first_sheet=first)
            left = ~done[order]
            self.questions.add(
                some[order[left]],
                phase=phase,
                stream=stream,
                inclusion=drawn[begin : begin + CHUNK][order[left]],
                sheet=sheet[left],
            )


def _grid(m: int) -> int:
    """The largest number of answers up to ``m`` at which the verifier is fitted."""
    if m < CHUNK:
        return m - m % (CHUNK // 3)
    step = int(np.log(m / CHUNK) / np.log(REFIT) + 1e-9)
    return min(m, int(CHUNK * REFIT**step))


class Verifiers:
    """Fits verifiers and keeps the latest; keeping only saves time."""

    def __init__(self) -> None:
        self._features: tuple[ProjectPool, Features] | None = None
        self._fits: dict[bytes, Verifier] = {}

    def fit(
        self,
        project: ProjectPool,
        items: Ints,
        yes: npt.NDArray[np.float32],
        hint_items: Ints,
        hint_yes: npt.NDArray[np.float32],
        *,
        seed: int,
    ) -> Verifier:
        """See ``fit_verifier``."""
        if self._features is None or self._features[0] is not project:
            self._features = (project, make_features(project))
            self._fits.clear()
        parts = (items, yes, hint_items, hint_yes)
        key = b"|".join([*(part.tobytes() for part in parts), str(seed).encode()])
        if key not in self._fits:
            while len(self._fits) >= _FITS_KEPT:
                del self._fits[next(iter(self._fits))]
            known = project.lessons
            self._fits[key] = fit_verifier(
                self._features[1],
                items,
                yes,
                seed=seed,
                hint_item=hint_items,
                hint_yes=hint_yes,
                good=() if known is None else known.good,
                picture=() if known is None else known.picture,
            )
        return self._fits[key]


def smallest(key: Floats, k: int) -> Ints:
    """(min(k, len(key)),) int64: indices of the k smallest keys, smallest first."""
    if k < len(key):
        some = np.argpartition(key, k)[:k]
        return some[np.argsort(key[some], kind="stable")]
    return np.argsort(key, kind="stable")[:k]
