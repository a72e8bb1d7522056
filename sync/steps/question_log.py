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

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from sqlalchemy import select

from clustering.answers import AnswerLog
from clustering.crowd import Answers, CrowdModel, fit_crowd, next_workers
from clustering.propagation import match_pools
from sync.project_state import Project
from sync.steps.cluster import LabelPool
from sync.steps.queries import finished_tasks
from sync.tables import AnswerRecord, QuestionRecord

__all__ = ["GOLD_IOU", "LabelLog", "ReviewLog", "read_review_log"]

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
    cluster: int = -1
    stream: int = 0
    inclusion: float = 1.0
    answers: list[tuple[datetime, int, int, float, float]] = field(default_factory=list)
    """(time, annotation, worker, yes or NaN, seconds)"""


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

    ``questions`` are those of this round, ``answered`` the keys among them that have an answer, ``carried``
    the number of instances whose answer came from an earlier round.
    """

    labels: Mapping[str, LabelLog]
    questions: Sequence[QuestionRecord]
    answered: frozenset[str]
    carried: int
    discarded: int
    model: CrowdModel | None


def read_review_log(project: Project, round_number: int, pools: Sequence[LabelPool]) -> ReviewLog:
    """Everything workers said, as verdicts on the pools of this round."""
    with project.read() as session:
        questions = list(
            session.scalars(
                select(QuestionRecord)
                .where(QuestionRecord.project_id == project.id, QuestionRecord.round <= round_number)
                .order_by(QuestionRecord.id)
            )
        )
        answers = list(
            session.scalars(
                select(AnswerRecord)
                .where(AnswerRecord.project_id == project.id)
                .order_by(AnswerRecord.created_at, AnswerRecord.annotation_id)
            )
        )
    by_question: dict[str, list[AnswerRecord]] = defaultdict(list)
    discarded = 0
    for answer in answers:
        if answer.seconds is not None and answer.seconds < project.settings.min_answer_s:
            discarded += 1
            continue
        by_question[answer.question_key].append(answer)
    items, carried = _items(project, round_number, pools, questions, by_question)
    labels, model = _verdicts(project, items, [pool.label for pool in pools])
    current = [question for question in questions if question.round == round_number]
    answered = frozenset(question.key for question in current if by_question.get(question.key))
    return ReviewLog(labels, current, answered, carried, discarded, model)


def _items(
    project: Project,
    round_number: int,
    pools: Sequence[LabelPool],
    questions: Sequence[QuestionRecord],
    by_question: Mapping[str, Sequence[AnswerRecord]],
) -> tuple[list[_Item], int]:
    rows = {(pool.label, key): row for pool in pools for key, row in pool.rows_by_key().items()}
    older = [q for q in questions if q.round < round_number and by_question.get(q.key)]
    same = _same_masks(pools, older)
    items: dict[tuple[str, str], _Item] = {}
    strays: dict[tuple[str, str], list[QuestionRecord]] = defaultdict(list)
    carried: set[tuple[str, int]] = set()
    for question in questions:
        if not by_question.get(question.key):
            continue
        row = rows.get((question.label, question.instance), -1)
        if question.round < round_number:
            row = same.get((question.label, question.instance), -1)
            if row >= 0:
                carried.add((question.label, row))
        if row < 0:
            strays[question.label, question.instance].append(question)
            continue
        name = (question.label, f"row{row}")
        item = items.setdefault(name, _Item(question.label, row, question.prior))
        if question.round == round_number and question.repeat == 0:
            # carried answers stay outside every random sample: cluster -1, see clustering.propagation
            item.cluster, item.stream = question.cluster, question.stream
            item.inclusion = question.inclusion
        _add(item, by_question[question.key])
    gold = _gold(project, strays)
    for name, group in strays.items():
        item = items.setdefault(name, _Item(name[0], -1, group[0].prior, gold.get(name, np.nan)))
        for question in group:
            _add(item, by_question[question.key])
    return list(items.values()), len(carried)


def _add(item: _Item, answers: Sequence[AnswerRecord]) -> None:
    value = {"yes": 1.0, "no": 0.0, "unsure": np.nan}
    for answer in answers:
        seconds = np.nan if answer.seconds is None else answer.seconds
        item.answers.append(
            (answer.created_at, answer.annotation_id, answer.worker, value[answer.value], seconds)
        )


def _same_masks(pools: Sequence[LabelPool], older: Sequence[QuestionRecord]) -> dict[tuple[str, str], int]:
    """(label, instance of an earlier round) -> row of the pool that is the same mask (IoU ≥ 0.9)."""
    found: dict[tuple[str, str], int] = {}
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
                found[pool.label, names[i]] = row
    return found


def _gold(
    project: Project, strays: Mapping[tuple[str, str], Sequence[QuestionRecord]]
) -> dict[tuple[str, str], float]:
    """Known truth of masks that are in no pool, from what people drew on their tasks since or before."""
    if not strays:
        return {}
    finished = finished_tasks(project)
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
    project: Project, items: Sequence[_Item], labels: Sequence[str]
) -> tuple[dict[str, LabelLog], CrowdModel | None]:
    cap = project.settings.review_overlap_max
    model = None
    if cap == 1:
        probability, again, expert = _majority(items), set[int](), set[int]()
    else:
        model, probability, again, expert = _crowd(items, cap)
    result = {}
    for label in labels:
        mine = [i for i, item in enumerate(items) if item.label == label and item.row >= 0]
        settled = sorted(
            (i for i in mine if i not in again),
            key=lambda i: (
                max((answer[:2] for answer in items[i].answers), default=(_EPOCH, 0)),
                items[i].row,
            ),
        )
        result[label] = LabelLog(
            AnswerLog(
                item=np.array([items[i].row for i in settled], np.int64),
                yes=np.array([probability[i] for i in settled], np.float32),
                cluster=np.array([items[i].cluster for i in settled], np.int64),
                stream=np.array([items[i].stream for i in settled], np.int8),
                inclusion=np.array([items[i].inclusion for i in settled], np.float64),
            ),
            again=np.array([items[i].row for i in mine if i in again], np.int64),
            expert=np.array([items[i].row for i in mine if i in expert], np.int64),
        )
    return result, model


def _known_since(item: _Item) -> tuple[tuple[datetime, int], int]:
    """Sort key of a verdict: its last answer."""
    return max((answer[:2] for answer in item.answers), default=(_EPOCH, 0)), item.row


def _majority(items: Sequence[_Item]) -> list[float]:
    """Share of yes made 0 or 1; the newest answer breaks a tie; 0.5 where all were unsure."""
    found = []
    for item in items:
        told = [yes for *_, yes, _ in sorted(item.answers) if not np.isnan(yes)]
        share = float(np.mean(told)) if told else 0.5
        found.append(told[-1] if told and share == 0.5 else float(np.sign(share - 0.5) * 0.5 + 0.5))
    return found


def _crowd(items: Sequence[_Item], cap: int) -> tuple[CrowdModel, list[float], set[int], set[int]]:
    rows = sorted(
        (answer[0], answer[1], i, answer[2], answer[3], answer[4])
        for i, item in enumerate(items)
        for answer in item.answers
    )
    answers = Answers(
        item=np.array([row[2] for row in rows], np.int64),
        worker=np.array([row[3] for row in rows], np.int64),
        yes=np.array([row[4] for row in rows], np.float64),
        seconds=np.array([row[5] for row in rows], np.float64),
    )
    prior = np.clip([item.prior for item in items], 0.05, 0.95)
    model = fit_crowd(answers, prior=prior, gold=np.array([item.gold for item in items], np.float64))
    again, expert = next_workers(answers, model, cap=cap)
    probability = np.full(len(items), 0.5)
    probability[model.item] = model.p_yes
    return model, probability.tolist(), set(again.tolist()), set(expert.tolist())
