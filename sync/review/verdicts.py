"""From workers' answers to the verdicts a policy reads, one log per label.

With ``review_overlap_max`` 1 answers are taken as true (the majority where there happen to be several).
With more, Dawid and Skene's model started at the detector's confidence says how likely each mask is good; a
mask is in the log once that settles it, others are shown to one more worker, up to the maximum. Everything is
computed from the stored answers at each look: withdrawing an answer takes its consequences back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from sqlalchemy import select

from clustering.answers import AnswerLog, Stream
from clustering.crowd import Answers, WorkerReport, fit_crowd, next_workers, worker_report
from clustering.matching import match_pools
from sync.review.review_project import HIDDEN
from sync.rounds.cluster import LabelPool
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, QuestionRecord

__all__ = ["GOLD_IOU", "LabelLog", "ReviewLog", "describe_workers", "read_review_log"]

GOLD_IOU = 0.75
"""a mask is good when its IoU with a drawn mask of the same label exceeds this"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Item:
    """One instance with the answers about it."""

    label: str
    row: int
    """row in the label's pool, -1 for gold"""
    prior: float
    gold: float = np.nan
    draws: list[tuple[int, int, float]] = field(default_factory=list)
    """(cluster, stream, inclusion) of every sample of this round it was drawn for"""
    questions: int = 0
    """review tasks that were answered"""
    answers: list[tuple[datetime, int, int, float, float, bool]] = field(default_factory=list)
    """(time, annotation, worker, yes or NaN, seconds, to a hidden repeat)"""


@dataclass(frozen=True, slots=True, eq=False)
class LabelLog:
    """Verdicts of one label, and what is still open.

    ``again`` are rows of the pool that need one more worker, ``expert`` those that used up all workers.
    """

    log: AnswerLog
    again: npt.NDArray[np.int64]
    expert: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ReviewLog:
    """Verdicts of all labels of a round, with the questions behind them.

    ``questions`` are those of this round, ``answered`` the keys among them that need no answer any more.
    ``known`` are the (label, row) of instances somebody answered about, ``carried`` those of them with
    answers of an earlier round. ``workers`` is the report on the crowd, empty while answers count as true.
    """

    labels: Mapping[str, LabelLog]
    questions: Sequence[QuestionRecord]
    answered: frozenset[str]
    known: frozenset[tuple[str, int]]
    carried: frozenset[tuple[str, int]]
    workers: tuple[dict[str, Any], ...]


def read_review_log(
    db: ProjectStore, settings: Settings, round_number: int, pools: Sequence[LabelPool]
) -> ReviewLog:
    """Everything workers said, as verdicts on the pools of this round."""
    with db.read() as session:
        questions = list(
            session.scalars(
                select(QuestionRecord)
                .where(QuestionRecord.project_id == db.id, QuestionRecord.round <= round_number)
                .order_by(QuestionRecord.id)
            )
        )
        answers = list(
            session.scalars(
                select(AnswerRecord)
                .where(AnswerRecord.project_id == db.id)
                .order_by(AnswerRecord.created_at, AnswerRecord.annotation_id)
            )
        )
    by_question: dict[str, list[AnswerRecord]] = defaultdict(list)
    for answer in answers:
        by_question[answer.question_key].append(answer)
    rows = {(pool.label, key): (pool.label, row) for pool in pools for key, row in pool.rows_by_key().items()}
    same = _same_masks(pools, [q for q in questions if q.round < round_number and by_question.get(q.key)])
    items, carried = _items(db, round_number, {**same, **rows}, questions, by_question)
    labels, workers = _verdicts(settings, items, [pool.label for pool in pools])
    current = [question for question in questions if question.round == round_number]
    known = frozenset((item.label, item.row) for item in items if item.row >= 0)
    answered = frozenset(
        question.key
        for question in current
        if by_question.get(question.key)
        or (question.review_task_id is None and rows.get((question.label, question.instance)) in known)
    )
    return ReviewLog(labels, current, answered, known, frozenset(carried), workers)


def _items(
    db: ProjectStore,
    round_number: int,
    rows: Mapping[tuple[str, str], tuple[str, int]],
    questions: Sequence[QuestionRecord],
    by_question: Mapping[str, Sequence[AnswerRecord]],
) -> tuple[list[_Item], set[tuple[str, int]]]:
    """Instances somebody answered about, and those of them whose answer is from an earlier round.

    What is known of a mask answers every question about it: it stands in the log once for each sample it
    was drawn for. An answer carried over from an earlier round is outside of every random sample (cluster
    -1, see clustering.propagation) until this round draws its mask.
    """
    items: dict[tuple[str, str | int], _Item] = {}
    strays: dict[tuple[str, str], list[QuestionRecord]] = defaultdict(list)
    carried: set[tuple[str, int]] = set()
    for question in sorted(questions, key=lambda question: question.round == round_number):
        is_current = question.round == round_number
        row = rows.get((question.label, question.instance))
        told = by_question.get(question.key, ())
        if row is None:
            if told:
                strays[question.label, question.instance].append(question)
            continue
        item = items.setdefault(row, _Item(question.label, row[1], question.prior))
        if is_current and question.repeat == 0:
            item.draws.append((question.cluster, question.stream, question.inclusion))
        if told:
            _add(item, told, question.repeat)
            if not is_current:
                carried.add(row)
    items = {name: item for name, item in items.items() if item.answers}
    gold = _gold(db, strays)
    for name, group in strays.items():
        stray = items.setdefault(name, _Item(name[0], -1, group[0].prior, gold.get(name, np.nan)))
        for question in group:
            _add(stray, by_question[question.key], question.repeat)
    return list(items.values()), carried


def _add(item: _Item, answers: Sequence[AnswerRecord], repeat: int) -> None:
    value = {"yes": 1.0, "no": 0.0, "unsure": np.nan}
    item.questions += 1
    for answer in answers:
        seconds = np.nan if answer.seconds is None else answer.seconds
        told = (answer.created_at, answer.annotation_id, answer.worker, value[answer.value], seconds)
        item.answers.append((*told, repeat >= HIDDEN))


def _same_masks(
    pools: Sequence[LabelPool], older: Sequence[QuestionRecord]
) -> dict[tuple[str, str], tuple[str, int]]:
    """(label, instance of an earlier round) -> (label, row) of the same mask in the pool (IoU ≥ 0.9)."""
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for pool in pools:
        asked = {q.instance: q for q in older if q.label == pool.label}
        if not asked or not len(pool):
            continue
        names = sorted(asked)
        order = np.argsort(pool.table.task_id, kind="stable")
        tasks = pool.table.task_id[order]
        old_rows: list[npt.NDArray[np.int64]] = []
        new_rows: list[npt.NDArray[np.int64]] = []
        overlaps: list[npt.NDArray[np.float64]] = []
        for i, name in enumerate(names):
            task, rle = asked[name].task_id, asked[name].rle
            there = order[np.searchsorted(tasks, task, "left") : np.searchsorted(tasks, task, "right")]
            there = there[(pool.table.hw[there] == np.array(rle["size"])).all(axis=1)]
            if not len(there):
                continue
            masks = [pool.table.rle(int(row)) for row in there]
            overlaps.append(np.asarray(coco.iou(masks, [rle], [0]), np.float64).reshape(-1))
            old_rows.append(np.full(len(there), i, np.int64))
            new_rows.append(there.astype(np.int64))
        if overlaps:
            iou = np.clip(np.concatenate(overlaps), 0.0, 1.0)
            old, new = match_pools(
                np.concatenate(old_rows), np.concatenate(new_rows), iou, np.ones(len(iou), bool)
            )
            for i, row in zip(old.tolist(), new.tolist(), strict=True):
                found[pool.label, names[i]] = (pool.label, row)
    return found


def _gold(
    db: ProjectStore, strays: Mapping[tuple[str, str], Sequence[QuestionRecord]]
) -> dict[tuple[str, str], float]:
    """Known truth of masks that are in no pool, from what people drew on their tasks since or before."""
    if not strays:
        return {}
    finished = finished_tasks(db)
    truth: dict[tuple[str, str], float] = {}
    for name, group in strays.items():
        found = finished.get(group[0].task_id)
        if found is None:
            continue
        rle = group[0].rle
        drawn = [
            region["rle"]
            for region in found[1].regions
            if region["label"] == name[0] and list(region["rle"]["size"]) == list(rle["size"])
        ]
        best = float(coco.iou([rle], drawn, [0] * len(drawn)).max()) if drawn else 0.0
        truth[name] = float(best > GOLD_IOU)
    return truth


def _verdicts(
    settings: Settings, items: Sequence[_Item], labels: Sequence[str]
) -> tuple[dict[str, LabelLog], tuple[dict[str, Any], ...]]:
    cap = settings.review_overlap_max
    workers: tuple[dict[str, Any], ...] = ()
    if cap == 1:
        probability, again = _majority(items, settings.min_answer_s)
        expert: set[int] = set()
    else:
        probability, again, expert, workers = _crowd(items, settings)
    result = {}
    for label in labels:
        mine = [i for i, item in enumerate(items) if item.label == label and item.row >= 0]
        settled = sorted((i for i in mine if i not in again), key=lambda i: _known_since(items[i]))
        result[label] = LabelLog(
            _log([(items[i], probability[i]) for i in settled]),
            again=np.array([items[i].row for i in mine if i in again], np.int64),
            expert=np.array([items[i].row for i in mine if i in expert], np.int64),
        )
    return result, workers


def _log(settled: Sequence[tuple[_Item, float]]) -> AnswerLog:
    """One row per draw, and one outside of every sample for items that were not drawn in this round."""
    rows = [
        (item.row, yes, *draw)
        for item, yes in settled
        for draw in item.draws or [(-1, int(Stream.SEARCH), 1.0)]
    ]
    row, yes, cluster, stream, inclusion = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return AnswerLog(
        item=np.array(row, np.int64),
        yes=np.array(yes, np.float32),
        cluster=np.array(cluster, np.int64),
        stream=np.array(stream, np.int8),
        inclusion=np.array(inclusion, np.float64),
    )


def _known_since(item: _Item) -> tuple[tuple[datetime, int], int]:
    """Sort key of a verdict: its last answer."""
    return max((answer[:2] for answer in item.answers), default=(_EPOCH, 0)), item.row


def _majority(items: Sequence[_Item], floor_s: float) -> tuple[list[float], set[int]]:
    """Share of yes made 0 or 1 (the newest answer breaks a tie, 0.5 where all were unsure), and the items all
    of whose answers were too fast to count.
    """
    found: list[float] = []
    again: set[int] = set()
    for i, item in enumerate(items):
        slow = [answer for answer in sorted(item.answers) if not answer[4] < floor_s]
        told = [answer[3] for answer in slow if not np.isnan(answer[3])]
        share = float(np.mean(told)) if told else 0.5
        found.append(told[-1] if told and share == 0.5 else float(np.sign(share - 0.5) * 0.5 + 0.5))
        if not slow:
            again.add(i)
    return found, again


def _crowd(
    items: Sequence[_Item], settings: Settings
) -> tuple[list[float], set[int], set[int], tuple[dict[str, Any], ...]]:
    """Probability of yes per item, items that need another worker, items for an expert, workers.

    What an expert says about an item is its truth, for the item and in judging the workers.
    """
    cap, floor_s = settings.review_overlap_max, settings.min_answer_s
    rows = sorted(
        (answer[0], answer[1], i, *answer[2:]) for i, item in enumerate(items) for answer in item.answers
    )
    answers = Answers(
        item=np.array([row[2] for row in rows], np.int64),
        worker=np.array([row[3] for row in rows], np.int64),
        yes=np.array([row[4] for row in rows], np.float64),
        seconds=np.array([row[5] for row in rows], np.float64),
    )
    prior = np.clip([item.prior for item in items], 0.05, 0.95)
    gold = np.array([_by_expert(item, settings.experts) for item in items], np.float64)
    hidden = np.array([row[6] for row in rows], bool)
    report = worker_report(answers, prior=prior, gold=gold, hidden=hidden, floor_s=floor_s)
    kept = _countable(answers, report, floor_s)
    model = fit_crowd(kept, prior=prior, gold=gold)
    ask, late = next_workers(kept, model, cap=cap)
    bare = np.setdiff1d(np.unique(answers.item), model.item)  # nothing is left of what was said
    probability = np.full(len(items), 0.5)
    probability[model.item] = model.p_yes
    again = {int(i) for i in (*ask, *bare) if np.isnan(gold[i])}
    # every worker there is has seen it, or it was asked often enough: what is known has to do
    crowd = set(report.worker[~report.suspended].tolist())
    spent = {i for i in again if items[i].questions >= 2 * cap or crowd <= {a[2] for a in items[i].answers}}
    return probability.tolist(), again - spent, {int(i) for i in late} | spent, describe_workers(report)


def _by_expert(item: _Item, experts: Sequence[int]) -> float:
    """The newest yes or no of an expert, else the truth of a gold item, else NaN."""
    told = [answer[3] for answer in sorted(item.answers) if answer[2] in experts and not np.isnan(answer[3])]
    return told[-1] if told else item.gold


def _countable(answers: Answers, report: WorkerReport, floor_s: float) -> Answers:
    """Answers that count: not of suspended workers, not too fast, the first of each worker per item."""
    suspended = np.isin(answers.worker, report.worker[report.suspended])
    hurried = np.nan_to_num(answers.seconds, nan=np.inf) < floor_s
    rows = np.flatnonzero(~suspended & ~hurried)
    pairs = np.stack([answers.item[rows], answers.worker[rows]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return answers.take(rows[np.sort(first)])


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
