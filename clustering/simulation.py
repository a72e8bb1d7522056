"""Play a search policy on a pool of known truth: masks, precision, SQ and recall against questions and hours.

A mask is correct iff its true IoU is above 0.75 (Papadopoulos et al. 2021). SQ is the mean true IoU of the
accepted masks, recall the share of the pool's correct masks that is accepted. Precision is reported for
everything accepted and for the masks labelled by propagation alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Form, PolicyStep, Questions, SearchPolicy
from clustering.arrays import Floats, Ints
from clustering.evidence import Noise, clopper_pearson
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = ["CORRECT_IOU", "Costs", "Curve", "Run", "merge_curves", "play", "violations"]

CORRECT_IOU = 0.75
"""A mask is correct where its true IoU is above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Human seconds: of a single question, of a contact sheet and each mask on it, of a mask drawn by hand.

    The time of a question is the published one (Papadopoulos et al. 2021), that of a drawn mask the one of
    COCO (Lin et al. 2014). The times of sheets are assumed.

    Attributes
    ----------
    question : s, one question on its own
    sheet, sheet_mask : s, a contact sheet, and each mask on it
    drawn_mask : s, a mask drawn by hand

    Raises
    ------
    ValueError : a time is negative
    """

    question: float = 1.4
    sheet: float = 1.0
    sheet_mask: float = 0.25
    drawn_mask: float = 80.0

    def __post_init__(self) -> None:
        for name in ("question", "sheet", "sheet_mask", "drawn_mask"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} costs {getattr(self, name)} s: it must be 0 or more")

    def seconds(self, questions: Questions) -> float:
        """Time to answer all of them; masks of one sheet share its fixed part."""
        on_sheet = questions.form == Form.SHEET
        sheets = len(np.unique(questions.sheet[on_sheet]))
        return float(
            (~on_sheet).sum() * self.question + sheets * self.sheet + on_sheet.sum() * self.sheet_mask
        )


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The state of a play at its k looks. A look is one call of the policy; the first is before any question.

    Attributes
    ----------
    questions : (k,) int64, verdicts so far
    hours : (k,) float64, human time so far
    masks, correct : (k,) int64, accepted masks, and the correct ones among them
    propagated, propagated_correct : (k,) int64, masks accepted by propagation alone, and the correct ones
    iou_sum : (k,) float64, sum of the true IoU of the accepted masks
    correct_in_pool : number of correct masks in the pool
    """

    questions: Ints
    hours: Floats
    masks: Ints
    propagated: Ints
    correct: Ints
    propagated_correct: Ints
    iou_sum: Floats
    correct_in_pool: int

    @property
    def precision(self) -> Floats:
        """(k,) share of correct masks among the accepted ones; NaN where nothing is accepted."""
        return _share(self.correct, self.masks)

    @property
    def propagated_precision(self) -> Floats:
        """(k,) the same for masks accepted by propagation."""
        return _share(self.propagated_correct, self.propagated)

    @property
    def quality(self) -> Floats:
        """(k,) SQ: mean true IoU of the accepted masks; NaN where nothing is accepted."""
        return _share(self.iou_sum, self.masks)

    @property
    def recall(self) -> Floats:
        """(k,) share of the pool's correct masks that is accepted; NaN where none is correct."""
        return _share(self.correct, np.full(len(self.correct), self.correct_in_pool))

    def __len__(self) -> int:
        return len(self.questions)


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
        """Lowest precision of the accepted masks at any look with propagated masks; NaN without such a look.

        This is what a promise of purity is about: it includes the members of a set that people answered
        about.
        """
        return _lowest(self.curve.precision[self.curve.propagated > 0])

    @property
    def worst_propagated(self) -> float:
        """The same for masks accepted by propagation alone, which no person saw."""
        return _lowest(self.curve.propagated_precision[self.curve.propagated > 0])

    @property
    def masks_per_question(self) -> float:
        """Accepted masks per question at the end; NaN without questions."""
        asked = int(self.curve.questions[-1])
        return float(self.curve.masks[-1]) / asked if asked else float("nan")


def _lowest(shares: Floats) -> float:
    return float(shares.min()) if len(shares) else float("nan")


def play(
    policy: SearchPolicy,
    tree: ClusterTree,
    pool: Pool,
    iou: npt.ArrayLike,
    *,
    seed: int,
    noise: Noise | None = None,
    budget: int | None = None,
    batch: int = 60,
    costs: Costs | None = None,
    correct_iou: float = CORRECT_IOU,
) -> Run:
    """Let a policy ask until it is done, has asked ``budget`` questions, or asks nothing more.

    Parameters
    ----------
    iou : (n,) true IoU of every instance
    seed : of the policy and of the played worker
    noise : how the played worker errs; None = never. An instance gets the same answer however often it is
        asked
    budget : most questions; None = no limit
    batch : questions per look
    costs : human time of the questions
    correct_iou : a mask is correct where its true IoU is above this

    Raises
    ------
    ValueError : iou does not cover the pool, a value is not within 0..1, or batch is not positive
    """
    truth = np.asarray(iou, np.float64)
    if truth.shape != (len(pool),):
        raise ValueError(f"iou is {truth.shape}: expected ({len(pool)},), one true IoU per instance")
    if len(truth) and not (np.isfinite(truth).all() and truth.min() >= 0.0 and truth.max() <= 1.0):
        raise ValueError("a true IoU is not within 0..1")
    if batch < 1:
        raise ValueError(f"batch is {batch}: a look needs 1 or more questions")
    costs = costs or Costs()
    correct = truth > correct_iou
    answer = _played_answers(correct, noise or Noise(), seed)
    log, seconds = AnswerLog.empty(), 0.0
    rows: list[tuple[float, ...]] = []
    while True:
        left = batch if budget is None else min(batch, budget - len(log))
        step = policy.step(tree, pool, log, budget=left, seed=seed)
        accepted = step.label > 0
        propagated = accepted & (step.decision >= 0)
        rows.append(
            (
                len(log),
                seconds / 3600.0,
                accepted.sum(),
                propagated.sum(),
                (accepted & correct).sum(),
                (propagated & correct).sum(),
                truth[accepted].sum(),
            )
        )
        if not len(step.questions):
            break
        seconds += costs.seconds(step.questions)
        log = log.extended(step.questions, answer[step.questions.item])
    table = np.array(rows, np.float64)
    whole = table.astype(np.int64)
    curve = Curve(
        questions=whole[:, 0],
        hours=table[:, 1],
        masks=whole[:, 2],
        propagated=whole[:, 3],
        correct=whole[:, 4],
        propagated_correct=whole[:, 5],
        iou_sum=table[:, 6],
        correct_in_pool=int(correct.sum()),
    )
    return Run(policy.name, seed, curve, log, step)


def _played_answers(correct: npt.NDArray[np.bool_], noise: Noise, seed: int) -> npt.NDArray[np.float32]:
    chance = np.where(correct, noise.sensitivity, 1.0 - noise.specificity)
    return (np.random.default_rng([seed, 0x5EED]).random(len(correct)) < chance).astype(np.float32)


def merge_curves(curves: list[Curve]) -> Curve:
    """The sum of several curves, such as those of the labels of a project.

    The first looks are added up, then the second, and so on. A play that is over keeps its last values.

    Raises
    ------
    ValueError : there is no curve
    """
    if not curves:
        raise ValueError("there is no curve to merge")
    looks = np.arange(max(len(curve) for curve in curves))

    def total(name: str) -> Floats:
        held = [getattr(curve, name)[np.minimum(looks, len(curve) - 1)] for curve in curves]
        return np.asarray(np.sum(held, axis=0, dtype=np.float64))

    return Curve(
        questions=total("questions").astype(np.int64),
        hours=total("hours"),
        masks=total("masks").astype(np.int64),
        propagated=total("propagated").astype(np.int64),
        correct=total("correct").astype(np.int64),
        propagated_correct=total("propagated_correct").astype(np.int64),
        iou_sum=total("iou_sum"),
        correct_in_pool=sum(curve.correct_in_pool for curve in curves),
    )


def violations(worst_precision: npt.ArrayLike, promise: float) -> tuple[int, int, float, float]:
    """How often a promised purity was broken.

    Parameters
    ----------
    worst_precision : (p,) lowest precision of each play; NaN = nothing was propagated, which keeps the
        promise
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
