"""Per label: what was asked, what is decided, what is left, and why no more is asked about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from sync.review.decide import Plan
from sync.review.verdicts import offsets
from sync.settings import Settings

__all__ = ["REASONS", "LabelReview", "label_reviews"]

REASONS: Final = {
    "": "",
    "open": "its questions wait for answers",
    "no masks": "the model found none of it on unfinished pictures; finish some pictures that have it, so "
    "that the next training can",
    "decided": "all that was found of it is decided",
    "paused": "asking is paused",
    "labels": "the labels of the project changed; the next training asks anew",
    "budget": "the questions of this round are used up (question_budget)",
    "others first": "answers about other labels are waited for: the most promising finds of all labels come "
    "first, and {batch} questions are open at most",
    "people": "everybody who may answer has answered; an expert can decide (experts)",
    "pictures": "its pictures cannot be shown",
    "not worth it": "too few of those left are good: a look at them costs more time than it spares",
    "not certified": "this policy asks no more: nothing left that it could accept or reject",
}
"""Why no further question about a label is asked, as ``LabelReview.why`` says it in one word."""


@dataclass(frozen=True, slots=True)
class LabelReview:
    """The review of one label in the present round.

    Attributes
    ----------
    masks : masks that the model found on unfinished pictures
    asked, open : questions so far (gold and repeats included), and those that still wait for an answer
    accepted, accepted_unseen : masks accepted, and those of them that nobody looked at
    rejected, rejected_unseen : the same for rejected ones
    left : masks that are not decided
    why, reason : why no further question is asked now, a key of REASONS and its sentence; empty while some
        are
    """

    label: str
    masks: int
    asked: int
    open: int
    accepted: int
    accepted_unseen: int
    rejected: int
    rejected_unseen: int
    left: int
    why: str
    reason: str


def label_reviews(
    plan: Plan, settings: Settings, labels: Sequence[str], *, may_ask: bool = True
) -> list[dict[str, Any]]:
    """One ``LabelReview`` per label, JSON-ready: those of the project, then others that the round has.

    ``settings`` are those of the project; without ``may_ask`` asking is paused.
    """
    pools = {pool.label: number for number, pool in enumerate(plan.outcome.pools)}
    log, done = plan.log, plan.outcome.propagation
    first = offsets(plan.outcome.pools)
    answered = log.answered | (log.skipped - log.waiting)
    shown = [question for question in log.questions if question.review_task_id is not None]
    new = Counter(question.label for question in plan.wanted)
    asked = Counter(question.label for question in shown) + new
    is_open = Counter(question.label for question in shown if question.key not in answered) + new
    found = []
    for label in [*labels, *(label for label in pools if label not in labels)]:
        if label in pools:
            mine = slice(int(first[pools[label]]), int(first[pools[label] + 1]))
            value, verified = done.label[mine], done.verified[mine]
            left = np.flatnonzero(value == 0) + mine.start
        else:
            value, verified = np.zeros(0, np.int8), np.zeros(0, np.bool_)
            left = np.zeros(0, np.int64)
        why = "open" if is_open[label] else _why(plan, settings, labels, len(value), left.tolist(), may_ask)
        row = LabelReview(
            label=label,
            masks=len(value),
            asked=asked[label],
            open=is_open[label],
            accepted=int((value > 0).sum()),
            accepted_unseen=int(((value > 0) & ~verified).sum()),
            rejected=int((value < 0).sum()),
            rejected_unseen=int(((value < 0) & ~verified).sum()),
            left=len(left),
            why=why,
            reason=REASONS[why].format(batch=settings.question_batch),
        )
        found.append(asdict(row))
    return found


def _why(
    plan: Plan, settings: Settings, labels: Sequence[str], masks: int, left: Sequence[int], may_ask: bool
) -> str:
    """Why nothing is asked about a label that has no open question."""
    log, outcome = plan.log, plan.outcome
    if not masks:
        return "no masks"
    if not left:
        return "decided"
    if not may_ask:
        return "paused"
    if {pool.label for pool in outcome.pools} - set(labels):
        return "labels"
    if log.cannot_be_shown.issuperset(left):
        return "pictures"
    if (log.cannot_be_shown | log.spent).issuperset(left):
        return "people"
    shown = sum(question.review_task_id is not None for question in log.questions) + len(plan.wanted)
    if not outcome.step.done and settings.question_budget is not None and shown >= settings.question_budget:
        return "budget"
    if not outcome.step.done:
        return "others first"
    return "not worth it" if outcome.step.forecast is not None else "not certified"
