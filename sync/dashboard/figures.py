"""The types of the dashboard: what is shown of one project, and how sure it is.

A ``Range`` is a figure with its 95 % interval and the number of cases it rests on. Where those are too few to
say anything, the figure is left out and the number stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clustering.evidence.intervals import clopper_pearson

__all__ = [
    "AnnotatorRow",
    "CurvePoint",
    "ExpertRow",
    "Hours",
    "InviteRow",
    "LabelRow",
    "MaskRow",
    "MistakeRow",
    "ProjectFigures",
    "QuestionRow",
    "Range",
    "Trouble",
    "VersionRow",
    "WorkerRow",
    "mean_range",
    "median_range",
    "share_range",
]

_ALPHA = 0.025
_SIDE = 1.96
_RESAMPLES, _MOST_RESAMPLED = 1000, 2000


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with its 95 % interval, from ``n`` cases."""

    value: float
    low: float
    high: float
    n: int


def share_range(yes: int, n: int) -> Range | None:
    """A share with its exact interval (Clopper & Pearson 1934); None of nothing."""
    if not n:
        return None
    low, high = clopper_pearson(yes, n, alpha=_ALPHA)
    return Range(yes / n, float(low), float(high), n)


def median_range(values: npt.ArrayLike) -> Range | None:
    """The median with an interval between two of the values, by their ranks; None of nothing.

    The number of values below the true median is binomial with one half (e.g. Conover 1999, "Practical
    nonparametric statistics"). With fewer than six values the interval reaches from the least to the most.
    """
    from scipy import stats

    sorted_values = np.sort(np.asarray(values, np.float64))
    n = len(sorted_values)
    if not n:
        return None
    rank = int(stats.binom.ppf(_ALPHA, n, 0.5))  # this many values may lie below the interval
    low, high = max(rank - 1, 0), min(n - rank, n - 1)
    return Range(float(np.median(sorted_values)), float(sorted_values[low]), float(sorted_values[high]), n)


def mean_range(total: npt.ArrayLike, count: npt.ArrayLike) -> Range | None:
    """Sum of ``total`` over sum of ``count``, interval by resampling the cases; None without any count.

    E.g. seconds and masks of each task: seconds per mask. The percentile bootstrap (Efron 1979) with a fixed
    seed, so that the same data give the same interval. Where there are many cases, by the linearised standard
    error of a ratio (Cochran 1977, section 2.11): the same interval without gigabytes of resampled cases.
    """
    above, below = np.asarray(total, np.float64), np.asarray(count, np.float64)
    if below.sum() <= 0:
        return None
    ratio, n = float(above.sum() / below.sum()), len(above)
    if n > _MOST_RESAMPLED:
        error = float(np.std(above - ratio * below, ddof=1) / (np.sqrt(n) * below.mean()))
        return Range(ratio, max(0.0, ratio - _SIDE * error), ratio + _SIDE * error, n)
    picks = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))
    sums = below[picks].sum(axis=1)
    ratios = above[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(ratios, (_ALPHA, 1 - _ALPHA))
    return Range(ratio, float(low), float(high), n)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Quality of a model version on its test split, after ``finished`` tasks.

    ``quality`` is None when the split has too few pictures: ``test_pictures`` says how many.
    """

    round: int
    version: str
    finished: int
    split: int
    test_pictures: int
    metric: str
    quality: Range | None
    early: bool


@dataclass(frozen=True, slots=True)
class MaskRow:
    """Masks (boxes, classes) by origin at the end of a round; of the newest round: now."""

    round: int
    finished: int
    drawn: int
    verified: int
    propagated: int
    rejected: int


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """Questions of a round, and how many masks each answered one gave; None before the first answer."""

    round: int
    asked: int
    answered: int
    skipped: int
    accepted: int
    masks_per_question: float | None


@dataclass(frozen=True, slots=True)
class Hours:
    """Human seconds, spent and saved.

    Attributes
    ----------
    drawing, answering : seconds that Label Studio measured, long pauses cut (see ``people``)
    tasks, answers : how many of them were timed
    untimed, cut : how many had no time, and how many were cut
    accepted_low, accepted_high : how many of the masks that nobody had to draw are good
    assumed : seconds that drawing these by hand takes by the cost model
    saved_low, saved_high : ``assumed`` for the good ones, less ``answering``
    source : where the cost model has its time from
    own : seconds per mask that people took in this project, with suggestions to start from
    own_saved : what is saved if drawing the accepted ones took as long as that
    """

    drawing: float
    answering: float
    tasks: int
    answers: int
    untimed: int
    cut: int
    accepted: int
    accepted_low: float
    accepted_high: float
    assumed: float
    saved_low: float
    saved_high: float
    source: str
    own: Range | None
    own_saved_low: float | None
    own_saved_high: float | None


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The pool of one label in the newest round.

    ``verified`` were seen by somebody, ``propagated`` are accepted without; ``purity``: share of good ones
    among the latter, as a certificate or an estimate says, None without any; ``why``: why nothing more is
    asked about it, empty while something is.
    """

    label: str
    pool: int
    verified: int
    propagated: int
    rejected: int
    open: int
    asked: int
    answered: int
    purity: tuple[float, float, int] | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatorRow:
    """One person who draws. ``found``: share of their objects that the predictions had; ``kept``: share of
    the predictions they left as they were; both by the rule of the project's kind, on ``compared`` tasks."""

    user: int
    name: str
    tasks: int
    skipped: int
    seconds: Range | None
    compared: int
    found: Range | None
    kept: Range | None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One person who answers questions; shares are None where nothing is known.

    ``good``: yes to good gold masks, ``bad``: no to bad ones.
    """

    worker: int
    name: str
    answers: int
    unsure: int
    seconds: float | None
    agreement: float | None
    gold: int
    good: Range | None
    bad: Range | None
    consistency: float | None
    suspended: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InviteRow:
    """A link to the review page. ``state``: open, expired or withdrawn; times: seconds since 1970, 0: never.

    ``answers`` are those of its person in this project, with all links that were made for them.
    """

    id: str
    name: str
    may: str
    state: str
    expires_at: float
    seen_at: float
    answers: int


@dataclass(frozen=True, slots=True)
class ExpertRow:
    """A question that nobody else may answer."""

    label: str
    task: int
    url: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A published model version. ``of``: the version that it is a copy of, with whose figures."""

    version: str
    round: int
    origin: str
    learner: str
    created_at: float
    train_tasks: int
    test_pictures: int
    split: int
    metric: str
    quality: Range | None
    seconds: float
    serving: bool
    early: bool
    of: str = ""


@dataclass(frozen=True, slots=True)
class MistakeRow:
    """A likely label mistake on a finished task; ``score``: 0..1, how likely a look is worth it."""

    task: int
    kind: str
    score: float
    reason: str
    url: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong, and what to do about it."""

    what: str
    why: str
    todo: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class ProjectFigures:
    """Everything the dashboard shows of one project, but for what changes every second (see ``live``)."""

    id: int
    title: str
    kind: str
    noun: str
    labels: tuple[str, ...]
    tasks: int
    finished: int
    skipped: int
    test_pictures: int
    next_training: str
    retrain_after: int
    serving: str
    round: int
    pulled_at: str
    promises: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    masks: tuple[MaskRow, ...]
    questions: tuple[QuestionRow, ...]
    hours: Hours
    pools: tuple[LabelRow, ...]
    annotators: tuple[AnnotatorRow, ...]
    workers: tuple[WorkerRow, ...]
    experts: tuple[ExpertRow, ...]
    expert_count: int
    versions: tuple[VersionRow, ...]
    troubles: tuple[Trouble, ...]
    has_clusters: bool
    backlog: tuple[str, ...] = field(default=())
    mistakes: tuple[MistakeRow, ...] = field(default=())
    mistake_count: int = 0
    mistakes_judged: int = 0
    invites: tuple[InviteRow, ...] = field(default=())
    drawn: int = 0
    """what people drew (or chose) on finished tasks, counted from the first one on"""
