"""Weigh the answers about masks: how likely each mask is good, and which ones to ask about again.

Each person counts once per mask, with the newest answer. Answers faster than the time floor
(``min_answer_s``) do not count. Answers to hidden repeats measure the person; they say nothing more about the
mask. A skip says that this person cannot answer. The newest yes or no of an expert decides.

With ``review_overlap_max`` 1 the answers are taken as true (the majority where there are several). With a
larger value, the model of Dawid and Skene (1979) estimates how likely each mask is good, starting from the
detector's confidence. A mask that is then still open is shown to one more worker, up to the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from clustering.crowd import Answers, WorkerReport, fit_crowd, next_workers, worker_report
from sync.settings import Settings

__all__ = ["AskedMask", "Told", "Weighed", "by_expert", "describe_workers", "evidence", "weigh"]


@dataclass(frozen=True, slots=True)
class Told:
    """One person's answer about a mask.

    ``yes`` is 1, 0 or NaN (unsure or skipped); ``seconds`` is NaN when the time is not known.
    """

    at: datetime
    annotation_id: int
    worker: int
    yes: float
    seconds: float
    is_hidden: bool = False
    is_skip: bool = False


@dataclass(slots=True)
class AskedMask:
    """One mask with all answers about it.

    Attributes
    ----------
    label : what it is said to be
    row : its row in the label's pool, -1 for masks that are in no pool (gold)
    prior : the detector's probability that it is good
    gold : 1 good, 0 bad, NaN not known
    draws : (cluster, stream, inclusion) of every sample of this round that it was drawn for
    questions : review tasks that were answered or skipped
    told : answers, hidden repeats and skips included
    cannot_be_shown : its picture cannot be read any more
    """

    label: str
    row: int
    prior: float
    gold: float = np.nan
    draws: list[tuple[int, int, float]] = field(default_factory=list)
    questions: int = 0
    told: list[Told] = field(default_factory=list)
    cannot_be_shown: bool = False


@dataclass(frozen=True, slots=True)
class Weighed:
    """The result for m masks.

    ``p_yes``: probability that each is good, 0.5 where nobody could tell. ``again``: places of masks that
    need one more worker. ``expert``: places of those still open after their last worker. ``workers``: the
    report on the crowd, empty while answers are taken as true.
    """

    p_yes: list[float]
    again: set[int]
    expert: set[int]
    workers: tuple[dict[str, Any], ...] = ()


def evidence(told: Sequence[Told], floor_s: float) -> list[Told]:
    """The answers that count for one mask: one per person, oldest first; see the top of this module.

    A skip counts only for a person who gave no answer, an answer to a hidden repeat only for a person who
    gave no other.
    """
    slow = [one for one in told if one.is_skip or not one.seconds < floor_s]
    of_person: dict[int, Told] = {}
    for one in sorted(slow, key=lambda one: (not one.is_skip, not one.is_hidden, one.at, one.annotation_id)):
        of_person[one.worker] = one
    return sorted(of_person.values(), key=lambda one: (one.at, one.annotation_id))


def by_expert(mask: AskedMask, experts: Sequence[int]) -> float:
    """The newest yes or no of an expert, else the truth of a gold mask, else NaN."""
    said = [one for one in mask.told if one.worker in experts and not np.isnan(one.yes)]
    if not said:
        return mask.gold
    return max(said, key=lambda one: (not one.is_hidden, one.at, one.annotation_id)).yes


def weigh(masks: Sequence[AskedMask], settings: Settings) -> Weighed:
    """Weigh the answers about these masks; see the top of this module."""
    if settings.review_overlap_max == 1:
        return _as_true(masks, settings)
    return _as_crowd(masks, settings)


def _as_true(masks: Sequence[AskedMask], settings: Settings) -> Weighed:
    """The majority; the newest answer breaks a tie. Asked again: masks whose answers were all too fast."""
    p_yes: list[float] = []
    again: set[int] = set()
    for i, mask in enumerate(masks):
        decided = by_expert(mask, settings.experts)
        counted = evidence(mask.told, settings.min_answer_s)
        said = [one.yes for one in counted if not np.isnan(one.yes)]
        share = float(np.mean(said)) if said else 0.5
        if not np.isnan(decided):
            p_yes.append(decided)
        elif said and share == 0.5:
            p_yes.append(said[-1])
        else:
            p_yes.append(float(np.sign(share - 0.5) * 0.5 + 0.5))
        if not counted and np.isnan(decided) and not mask.cannot_be_shown:
            again.add(i)
    return Weighed(p_yes, again, set())


def _as_crowd(masks: Sequence[AskedMask], settings: Settings) -> Weighed:
    """An expert's answer is the truth of its mask, also when the other workers are judged."""
    cap, floor_s = settings.review_overlap_max, settings.min_answer_s
    prior = np.clip([mask.prior for mask in masks], 0.05, 0.95)
    gold = np.array([by_expert(mask, settings.experts) for mask in masks], np.float64)
    given = _by_time([(one, i) for i, mask in enumerate(masks) for one in mask.told if not one.is_skip])
    hidden = np.array([one.is_hidden for one, _ in given], bool)
    report = worker_report(_columns(given), prior=prior, gold=gold, hidden=hidden, floor_s=floor_s)
    suspended = set(report.worker[report.suspended].tolist())
    kept = _columns(
        _by_time(
            [
                (one, i)
                for i, mask in enumerate(masks)
                for one in evidence([one for one in mask.told if one.worker not in suspended], floor_s)
            ]
        )
    )
    model = fit_crowd(kept, prior=prior, gold=gold)
    ask, late = next_workers(kept, model, cap=cap)
    bare = {i for i, mask in enumerate(masks) if mask.told} - set(
        model.item.tolist()
    )  # nothing left that counts
    p_yes = np.full(len(masks), 0.5)
    p_yes[model.item] = model.p_yes
    again = {i for i in {*ask.tolist(), *bare} if np.isnan(gold[i]) and not masks[i].cannot_be_shown}
    # all workers have seen it, or it was asked often enough: the present estimate is used
    people = {one.worker for mask in masks for one in mask.told} - suspended
    spent = {
        i for i in again if masks[i].questions >= 2 * cap or people <= {one.worker for one in masks[i].told}
    }
    return Weighed(p_yes.tolist(), again - spent, {int(i) for i in late} | spent, describe_workers(report))


def _by_time(rows: list[tuple[Told, int]]) -> list[tuple[Told, int]]:
    return sorted(rows, key=lambda row: (row[0].at, row[0].annotation_id, row[1]))


def _columns(rows: Sequence[tuple[Told, int]]) -> Answers:
    return Answers(
        item=np.array([item for _, item in rows], np.int64),
        worker=np.array([one.worker for one, _ in rows], np.int64),
        yes=np.array([one.yes for one, _ in rows], np.float64),
        seconds=np.array([one.seconds for one, _ in rows], np.float64),
    )


def describe_workers(report: WorkerReport) -> tuple[dict[str, Any], ...]:
    """The report on workers as JSON rows: every share with the number of answers it rests on."""
    reasons = ("fails_gold", "too_fast", "inconsistent", "straight_lining")
    rows = []
    for i, worker in enumerate(report.worker.tolist()):
        rows.append(
            {
                "worker": worker,
                "answers": int(report.answers[i]),
                "unsure": int(report.unsure[i]),
                "seconds": _number(report.seconds[i]),
                "agreement": _number(report.agreement[i]),
                "gold": int(report.gold_good[i] + report.gold_bad[i]),
                "gold_counts": [  # as the option ``gold`` of the policy ``certified`` wants them
                    int(report.gold_yes[i]),
                    int(report.gold_good[i]),
                    int(report.gold_no[i]),
                    int(report.gold_bad[i]),
                ],
                "sensitivity": _number(report.sensitivity[i]),
                "sensitivity_interval": [_number(x) for x in report.sensitivity_interval[i]],
                "specificity": _number(report.specificity[i]),
                "specificity_interval": [_number(x) for x in report.specificity_interval[i]],
                "repeats": int(report.repeats[i]),
                "consistency": _number(report.consistency[i]),
                "suspended": bool(report.suspended[i]),
                "reasons": [name for name in reasons if getattr(report, name)[i]],
            }
        )
    return tuple(rows)


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return round(float(value), 4) if np.isfinite(value) else None
