"""Play a search policy on a pool of known truth: masks, purity and recall against questions and hours.

A mask is correct iff its true IoU is above 0.75 (Papadopoulos et al. 2021). A mask is delivered where the
policy labels it +1. Delivered masks are either verified (people said yes to this very mask) or unseen.

The one figure to compare policies by is ``Curve.hours_to_finish``: the time of all answers, and of drawing by
hand every good mask of the pool that was not delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.answers import AnswerLog, PolicyStep, SearchPolicy
from clustering.arrays import Bools, Floats, Ints
from clustering.costs import Costs
from clustering.evidence import Noise, clopper_pearson
from clustering.project_pool import ProjectPool

__all__ = ["CORRECT_IOU", "Curve", "People", "Run", "default_batch", "play", "violations"]

CORRECT_IOU = 0.75
"""A mask is correct where its true IoU is above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """How played people answer. Every question goes to another person, who errs on their own.

    Attributes
    ----------
    sensitivity, specificity : P(yes | good) and P(no | bad) of one answer
    near_miss_specificity : P(no | bad) where the true IoU is ``near_miss_from`` or more; None = the same as
        of other bad masks. Lenient people let such masks pass
    near_miss_from : true IoU at which a near miss begins
    careless : share of answers that are tossed up

    Raises
    ------
    ValueError : a value is not within 0..1, or answers are no better than chance
    """

    sensitivity: float = 1.0
    specificity: float = 1.0
    near_miss_specificity: float | None = None
    near_miss_from: float = 0.65
    careless: float = 0.0

    def __post_init__(self) -> None:
        Noise(sensitivity=self.sensitivity, specificity=self.specificity)
        for name in ("near_miss_specificity", "near_miss_from", "careless"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}: it must lie within 0..1")

    @property
    def stated(self) -> Noise:
        """What is known of the answers; it knows of no near misses and of no careless people."""
        return Noise(sensitivity=self.sensitivity, specificity=self.specificity)

    def chance_of_yes(self, iou: Floats, correct: Bools) -> Floats:
        """(n,) float64: how likely one person says yes to masks of (n,) true IoU."""
        wrong_yes = np.full(len(iou), 1.0 - self.specificity)
        if self.near_miss_specificity is not None:
            wrong_yes[iou >= self.near_miss_from] = 1.0 - self.near_miss_specificity
        chance = np.where(correct, self.sensitivity, wrong_yes)
        return np.asarray(0.5 * self.careless + (1.0 - self.careless) * chance, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The state of a play at its k steps. A step is one call of the policy; the first is before any question.

    Attributes
    ----------
    questions : (k,) int64, answers so far
    seconds : (k,) float64, time of these answers
    masks, correct : (k,) int64, delivered masks, and the correct ones among them
    unseen, unseen_correct : (k,) int64, those of them that nobody was asked about
    iou_sum : (k,) float64, sum of the true IoU of the delivered masks
    correct_in_pool : number of correct masks in the pool
    drawn_mask_s : s, a mask drawn by hand
    """

    questions: Ints
    seconds: Floats
    masks: Ints
    correct: Ints
    unseen: Ints
    unseen_correct: Ints
    iou_sum: Floats
    correct_in_pool: int
    drawn_mask_s: float

    @property
    def verified(self) -> Ints:
        """(k,) int64, delivered masks that people said yes to."""
        return self.masks - self.unseen

    @property
    def verified_correct(self) -> Ints:
        """(k,) int64, the correct ones among them."""
        return self.correct - self.unseen_correct

    @property
    def hours(self) -> Floats:
        """(k,) float64, hours of answers so far."""
        return self.seconds / 3600.0

    @property
    def hours_to_finish(self) -> Floats:
        """(k,) float64: hours of the answers so far, and of drawing the good masks not delivered."""
        return self.hours + (self.correct_in_pool - self.correct) * (self.drawn_mask_s / 3600.0)

    @property
    def precision(self) -> Floats:
        """(k,) share of correct masks among the delivered ones; NaN where nothing is delivered."""
        return _share(self.correct, self.masks)

    @property
    def unseen_precision(self) -> Floats:
        """(k,) the same for delivered masks that nobody saw."""
        return _share(self.unseen_correct, self.unseen)

    @property
    def quality(self) -> Floats:
        """(k,) SQ: mean true IoU of the delivered masks; NaN where nothing is delivered."""
        return _share(self.iou_sum, self.masks)

    @property
    def recall(self) -> Floats:
        """(k,) share of the pool's correct masks that is delivered; NaN where none is correct."""
        return _share(self.correct, np.full(len(self.correct), self.correct_in_pool))

    def __len__(self) -> int:
        return len(self.questions)

    def at(self, column: str, *, questions: float | None = None, seconds: float | None = None) -> float:
        """Value of a column at the last step within so many questions and seconds; None = no limit.

        A play that ended before keeps its last value.
        """
        within = np.ones(len(self), bool)
        if questions is not None:
            within &= self.questions <= questions
        if seconds is not None:
            within &= self.seconds <= seconds
        last = int(np.flatnonzero(within)[-1]) if within.any() else 0
        return float(getattr(self, column)[last])


def _share(part: npt.NDArray[np.generic], whole: Ints) -> Floats:
    result = np.full(len(whole), np.nan)
    np.divide(part.astype(np.float64), whole, out=result, where=whole > 0)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One play: its curve, its last log, and the last step of the policy."""

    policy: str
    seed: int
    curve: Curve
    log: AnswerLog
    step: PolicyStep

    @property
    def worst_precision(self) -> float:
        """Lowest precision of all delivered masks at any step; NaN if nothing was ever delivered."""
        return _lowest(self.curve.precision)

    @property
    def worst_unseen(self) -> float:
        """The same for delivered masks that nobody saw: what a promise about unseen masks is about."""
        return _lowest(self.curve.unseen_precision)

    @property
    def masks_per_question(self) -> float:
        """Delivered masks per question at the end; NaN without questions."""
        asked = int(self.curve.questions[-1])
        return float(self.curve.masks[-1]) / asked if asked else float("nan")


def _lowest(shares: Floats) -> float:
    told = shares[~np.isnan(shares)]
    return float(told.min()) if len(told) else float("nan")


def default_batch(n: int) -> int:
    """Questions per step of a play on ``n`` masks: 60, in large pools a fiftieth of them.

    What is asked hardly depends on it, and a play of a million masks then takes some hundred steps.
    """
    return max(60, n // 50)


def play(
    policy: SearchPolicy,
    project: ProjectPool,
    iou: npt.ArrayLike,
    *,
    seed: int,
    people: People | None = None,
    budget: int | None = None,
    batch: int | None = None,
    costs: Costs | None = None,
    correct_iou: float = CORRECT_IOU,
    free: Bools | None = None,
    certificate: int = 1,
) -> Run:
    """Let a policy ask until it is done, has asked ``budget`` questions, or asks nothing more.

    The verdict on a mask is what all answers about it amount to with even odds beforehand: no detector enters
    it.

    Parameters
    ----------
    iou : (n,) true IoU of every instance, in the order of the project's rows
    seed : of the policy and of the played people
    people : how people err; None = never
    budget : most questions; None = no limit
    batch : questions per step; None = ``default_batch``
    costs : human time of the questions
    correct_iou : a mask is correct where its true IoU is above this
    free : (n,) masks that people have answered before the play: questions about them cost nothing and are not
        counted
    certificate : which promise of the project is played, see ``SearchPolicy``

    Returns
    -------
    Run. Time O(n) per step and what the policy takes.

    Raises
    ------
    ValueError : iou or ``free`` does not cover the pool, a value is not within 0..1, or batch is not positive
    """
    truth = np.asarray(iou, np.float64)
    n = len(project)
    if truth.shape != (n,):
        raise ValueError(f"iou is {truth.shape}: expected ({n},), one true IoU per instance")
    if n and not (np.isfinite(truth).all() and truth.min() >= 0.0 and truth.max() <= 1.0):
        raise ValueError("a true IoU is not within 0..1")
    size = default_batch(n) if batch is None else batch
    if size < 1:
        raise ValueError(f"batch is {batch}: a step needs 1 or more questions")
    if free is not None and free.shape != (n,):
        raise ValueError(f"free is {free.shape}: expected ({n},)")
    costs = costs or Costs()
    correct = truth > correct_iou
    crowd = _Crowd(people or People(), truth, correct, seed)
    log, seconds, asked = AnswerLog.empty(), 0.0, 0
    rows: list[tuple[float, ...]] = []
    while True:
        left = size if budget is None else min(size, budget - asked)
        step = policy.step(project, log, budget=left, seed=seed, certificate=certificate)
        delivered = step.label > 0
        unseen = delivered & (step.decision >= 0)
        rows.append(
            (
                asked,
                seconds,
                delivered.sum(),
                (delivered & correct).sum(),
                unseen.sum(),
                (unseen & correct).sum(),
                truth[delivered].sum(),
            )
        )
        if not len(step.questions):
            break
        paid = step.questions
        if free is not None:
            paid = paid.take(np.flatnonzero(~free[paid.item]))
        seconds += costs.seconds(paid)
        asked += len(paid)
        log = log.extended(step.questions, crowd.answer(step.questions.item))
        log = replace(log, yes=crowd.verdict[log.item])
    table = np.array(rows, np.float64)
    whole = table.astype(np.int64)
    curve = Curve(
        questions=whole[:, 0],
        seconds=table[:, 1],
        masks=whole[:, 2],
        correct=whole[:, 3],
        unseen=whole[:, 4],
        unseen_correct=whole[:, 5],
        iou_sum=table[:, 6],
        correct_in_pool=int(correct.sum()),
        drawn_mask_s=costs.drawn_mask,
    )
    return Run(policy.name, seed, curve, log, step)


class _Crowd:
    """Answers questions, and keeps what the answers about each mask amount to.

    ``verdict`` is (n,) float32, P(good) from the answers so far at even odds, with the error rates that are
    known of people.
    """

    def __init__(self, people: People, iou: Floats, correct: Bools, seed: int) -> None:
        self._chance = people.chance_of_yes(iou, correct)
        self._rng = np.random.default_rng([seed, 0x5EED])
        noise = people.stated
        self._exact = noise.exact
        with np.errstate(divide="ignore"):
            self._for_yes = np.log(noise.sensitivity) - np.log1p(-noise.specificity)
            self._for_no = np.log1p(-noise.sensitivity) - np.log(noise.specificity)
        self._log_odds = np.zeros(len(iou))
        self.verdict = np.full(len(iou), 0.5, np.float32)

    def answer(self, item: Ints) -> npt.NDArray[np.float32]:
        """One answer of a new person to each question: (q,) float32, 1 yes or 0 no."""
        yes = self._rng.random(len(item)) < self._chance[item]
        if self._exact:
            self.verdict[item] = yes
        else:
            # an answer that can only be right outweighs any number of others
            told = np.clip(np.where(yes, self._for_yes, self._for_no), -50.0, 50.0)
            np.add.at(self._log_odds, item, told)
            self.verdict[item] = special.expit(self._log_odds[item])
        return yes.astype(np.float32)


def violations(worst_precision: npt.ArrayLike, promise: float) -> tuple[int, int, float, float]:
    """How often a promised purity was broken.

    Parameters
    ----------
    worst_precision : (p,) lowest precision of each play; NaN = nothing was delivered, which keeps the promise
    promise : the promised purity

    Returns
    -------
    broken, plays : numbers of plays
    lower, upper : two-sided 95 % interval of the share of broken promises (Clopper & Pearson 1934)
    """
    worst = np.asarray(worst_precision, np.float64)
    broken = int((worst < promise).sum())
    lower, upper = clopper_pearson(broken, len(worst), alpha=0.025)
    return broken, len(worst), float(lower), float(upper)
