"""Weigh the answers about masks: how likely each mask is good, and which ones to ask about again.

Each person counts once per mask, with the newest answer. Answers faster than the time floor
(``min_answer_s``) do not count. Answers to hidden repeats measure the person; they say nothing more about the
mask. A skip says that this person cannot answer. The newest yes or no of an expert decides.

With ``review_overlap_max`` 1 the answers are taken as true (the majority where there are several). With a
larger value, the model of Dawid and Skene (1979) estimates how likely each mask is good. It starts from even
odds: what the detector thinks of its own masks must not enter the verdicts by which the detector is judged. A
mask that is then still open is shown to one more worker, up to the maximum.

A policy that allows for errors itself reads *first answers* instead: of each person about each mask the
first, in the order in which they came. Such a policy says itself where it wants another person, so a mask is
asked about again only when none of its answers counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from clustering.answers import Stream
from clustering.costs import QUESTION_S, SHEET_MASK_S
from clustering.crowd import Answers, WorkerReport, fit_crowd, next_workers, worker_report
from sync.settings import Settings

__all__ = [
    "SHEET_PACE",
    "AskedMask",
    "Draw",
    "Told",
    "Weighed",
    "by_expert",
    "describe_workers",
    "evidence",
    "first_answers",
    "weigh",
]

SHEET_PACE = SHEET_MASK_S / QUESTION_S
"""Time that a mask on a contact sheet takes, as a share of a single question's; so is its time floor."""


@dataclass(frozen=True, slots=True)
class Told:
    """One person's answer about a mask.

    ``yes`` is 1, 0 or NaN (unsure or skipped); ``seconds`` is NaN when the time is not known; ``pace`` is the
    time that such an answer takes, as a share of a single question's.
    """

    at: datetime
    annotation_id: int
    worker: int
    yes: float
    seconds: float
    is_hidden: bool = False
    is_skip: bool = False
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class Draw:
    """Why a mask was asked about, as in ``clustering.answers.AnswerLog``."""

    cluster: int = -1
    phase: int = -1
    stream: int = int(Stream.SEARCH)
    inclusion: float = 1.0


@dataclass(slots=True)
class AskedMask:
    """One mask with all answers about it.

    Attributes
    ----------
    label : what it is said to be
    row : its row in the project's pool, -1 for masks that are in no pool (gold, masks of earlier rounds)
    gold : 1 good, 0 bad, NaN not known
    gold_since : when that became known, and the number of the annotation that says so; None where it always
        was, or where nothing is known
    draws : samples of the present certificate that it was drawn for
    former : a sample of another certificate of this round that it was drawn for
    hint : row of the mask of this pool that is nearly the same; -1 for none
    questions : review tasks that were answered or skipped
    told : answers, hidden repeats and skips included
    cannot_be_shown : its picture cannot be read any more
    """

    label: str
    row: int
    gold: float = np.nan
    gold_since: tuple[datetime, int] | None = None
    draws: list[Draw] = field(default_factory=list)
    former: Draw | None = None
    hint: int = -1
    questions: int = 0
    told: list[Told] = field(default_factory=list)
    cannot_be_shown: bool = False


@dataclass(frozen=True, slots=True)
class Weighed:
    """The result for m masks.

    Attributes
    ----------
    p_yes : probability that each is good, 0.5 where nobody could tell
    said : first answers about each, see the top of this module
    again : places of masks that need one more worker
    expert : places of those still open after their last worker
    spent : places of masks that nobody else may be asked about
    decided : places of masks that an expert decided, and how: 1 good, 0 bad
    gold : first answers to gold masks: yes to good ones, number of those, no to bad ones, number of those
    workers : the report on the crowd, empty while answers are taken as true
    """

    p_yes: list[float]
    said: list[list[Told]]
    again: set[int]
    expert: set[int]
    spent: set[int]
    decided: dict[int, float]
    gold: tuple[int, int, int, int]
    workers: tuple[dict[str, Any], ...] = ()


def evidence(told: Sequence[Told], floor_s: float) -> list[Told]:
    """The answers that count for one mask: one per person, oldest first; see the top of this module.

    A skip counts only for a person who gave no answer, an answer to a hidden repeat only for a person who
    gave no other.
    """
    of_person: dict[int, Told] = {}
    for one in sorted(
        _unhurried(told, floor_s), key=lambda one: (not one.is_skip, not one.is_hidden, *_when(one))
    ):
        of_person[one.worker] = one
    return sorted(of_person.values(), key=_when)


def first_answers(told: Sequence[Told], floor_s: float) -> list[Told]:
    """As ``evidence``, but of each person the first answer, so that asking again changes none of them."""
    of_person: dict[int, Told] = {}
    for one in sorted(_unhurried(told, floor_s), key=lambda one: (one.is_skip, one.is_hidden, *_when(one))):
        of_person.setdefault(one.worker, one)
    return sorted(of_person.values(), key=_when)


def _unhurried(told: Sequence[Told], floor_s: float) -> list[Told]:
    return [one for one in told if one.is_skip or not one.seconds < floor_s * one.pace]


def _when(one: Told) -> tuple[datetime, int]:
    return one.at, one.annotation_id


def by_expert(mask: AskedMask, experts: Sequence[int]) -> float:
    """The newest yes or no of an expert, else the truth of a gold mask, else NaN."""
    said = [one for one in mask.told if one.worker in experts and not np.isnan(one.yes)]
    if not said:
        return mask.gold
    return max(said, key=lambda one: (not one.is_hidden, *_when(one))).yes


def weigh(masks: Sequence[AskedMask], settings: Settings, *, reads_first_answers: bool = False) -> Weighed:
    """Weigh the answers about these masks; see the top of this module.

    ``reads_first_answers``: the policy allows for errors itself.
    """
    is_crowd = settings.review_overlap_max > 1
    report = _report(masks, settings) if is_crowd else None
    suspended = set() if report is None else set(report.worker[report.suspended].tolist())
    kept = [[one for one in mask.told if one.worker not in suspended] for mask in masks]
    p_yes, again, expert = _as_crowd(masks, kept, settings) if is_crowd else _as_true(masks, kept, settings)
    said = [first_answers(told, settings.min_answer_s) for told in kept]
    spent = _spent(masks, kept, said, settings)
    decided = [by_expert(mask, settings.experts) for mask in masks]
    known = [not np.isnan(value) for value in decided]
    p_yes = [decided[i] if known[i] and not mask.told else p_yes[i] for i, mask in enumerate(masks)]
    if reads_first_answers:
        again = {i for i, mask in enumerate(masks) if mask.told and not said[i]}
        expert = {i for i, some in enumerate(said) if some and all(np.isnan(one.yes) for one in some)}
    again = {i for i in again if not known[i] and not masks[i].cannot_be_shown}
    if is_crowd:
        expert = {i for i in expert | (again & spent) if not known[i]}
        again -= spent
    return Weighed(
        p_yes,
        said,
        again,
        expert,
        spent,
        {i: value for i, value in enumerate(decided) if known[i] and masks[i].row >= 0},
        _gold_counts(masks, said),
        () if report is None else describe_workers(report),
    )


_Verdicts = tuple[list[float], set[int], set[int]]


def _as_true(masks: Sequence[AskedMask], kept: Sequence[Sequence[Told]], settings: Settings) -> _Verdicts:
    """The majority; the newest answer breaks a tie. Asked again: masks whose answers were all too fast."""
    p_yes: list[float] = []
    again: set[int] = set()
    for i, mask in enumerate(masks):
        decided = by_expert(mask, settings.experts)
        counted = evidence(kept[i], settings.min_answer_s)
        said = [one.yes for one in counted if not np.isnan(one.yes)]
        share = float(np.mean(said)) if said else 0.5
        if not np.isnan(decided):
            p_yes.append(decided)
        elif said and share == 0.5:
            p_yes.append(said[-1])
        else:
            p_yes.append(float(np.sign(share - 0.5) * 0.5 + 0.5))
        if not counted:
            again.add(i)
    return p_yes, again, set()


def _report(masks: Sequence[AskedMask], settings: Settings) -> WorkerReport:
    """The report on all workers. An expert's answer is the truth of its mask when the others are judged."""
    given = _by_time([(one, i) for i, mask in enumerate(masks) for one in mask.told if not one.is_skip])
    return worker_report(
        _columns(given),
        prior=np.full(len(masks), 0.5),
        gold=_truth(masks, settings),
        hidden=np.array([one.is_hidden for one, _ in given], bool),
        floor_s=settings.min_answer_s * np.array([one.pace for one, _ in given], np.float64),
    )


def _truth(masks: Sequence[AskedMask], settings: Settings) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([by_expert(mask, settings.experts) for mask in masks], np.float64)


def _as_crowd(masks: Sequence[AskedMask], kept: Sequence[Sequence[Told]], settings: Settings) -> _Verdicts:
    answers = _columns(
        _by_time([(one, i) for i, told in enumerate(kept) for one in evidence(told, settings.min_answer_s)])
    )
    model = fit_crowd(answers, prior=np.full(len(masks), 0.5), gold=_truth(masks, settings))
    ask, late = next_workers(answers, model, cap=settings.review_overlap_max)
    p_yes = np.full(len(masks), 0.5)
    p_yes[model.item] = model.p_yes
    bare = {i for i, mask in enumerate(masks) if mask.told} - set(model.item.tolist())  # nothing that counts
    return p_yes.tolist(), {*ask.tolist(), *bare}, set(late.tolist())


def _spent(
    masks: Sequence[AskedMask],
    kept: Sequence[Sequence[Told]],
    said: Sequence[Sequence[Told]],
    settings: Settings,
) -> set[int]:
    """Masks that have all the answers they may have, were asked about often enough, or seen by everybody.

    While nobody has answered whose answers count, somebody may still come.
    """
    cap = settings.review_overlap_max
    people = {one.worker for told in kept for one in told}
    return {
        i
        for i, mask in enumerate(masks)
        if len(said[i]) >= cap
        or mask.questions >= 2 * cap
        or (people and people <= {one.worker for one in mask.told})
    }


def _gold_counts(masks: Sequence[AskedMask], said: Sequence[Sequence[Told]]) -> tuple[int, int, int, int]:
    """Yes among the good gold masks, their number, no (or neither) among the bad ones, their number.

    Only the first answer about each mask: as the policy reads the masks it tests.
    """
    found = [
        (mask.gold, some[0].yes)
        for mask, some in zip(masks, said, strict=True)
        if some and mask.row < 0 and not np.isnan(mask.gold)
    ]
    good, bad = [yes for gold, yes in found if gold == 1.0], [yes for gold, yes in found if gold == 0.0]
    return sum(yes == 1.0 for yes in good), len(good), sum(yes != 1.0 for yes in bad), len(bad)


def _by_time(rows: list[tuple[Told, int]]) -> list[tuple[Told, int]]:
    return sorted(rows, key=lambda row: (*_when(row[0]), row[1]))


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
