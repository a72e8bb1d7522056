"""From workers' answers to the verdicts a policy reads, one log per label.

Everything is computed anew from the stored answers at each look, so withdrawing an answer undoes its effect.
How the answers about a mask become one verdict is worked out in ``weighing``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from sqlalchemy import select

from clustering.answers import AnswerLog, Stream
from clustering.matching import match_pools
from sync.review.answers import SKIP
from sync.review.question import HIDDEN
from sync.review.weighing import AskedMask, Told, Weighed, weigh
from sync.rounds.cluster import LabelPool
from sync.rounds.known_masks import GOOD_IOU
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, QuestionRecord, TaskRecord

__all__ = ["LabelLog", "ReviewLog", "read_review_log"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_VALUES = {"yes": 1.0, "no": 0.0, "unsure": np.nan, SKIP: np.nan}


@dataclass(frozen=True, slots=True, eq=False)
class LabelLog:
    """Verdicts of one label, and what is still open.

    ``again`` are rows of the pool that need one more worker. ``expert`` are rows still open after all workers
    who may answer have answered.
    """

    log: AnswerLog
    again: npt.NDArray[np.int64]
    expert: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ReviewLog:
    """Verdicts of all labels of a round, with the questions behind them.

    Attributes
    ----------
    labels : verdicts by label
    questions : those of this round
    answered : keys among them that need no answer any more
    skipped : keys among them that somebody skipped and nobody answered: they wait for nobody in particular
    waiting : those of ``skipped`` whose mask needs another worker
    known : (label, row) of masks that have a verdict, or whose picture cannot be shown
    carried : (label, row) of masks with answers of an earlier round
    cannot_be_shown : (label, row) of masks whose picture cannot be shown any more
    workers : the report on the crowd, empty while answers count as true
    """

    labels: Mapping[str, LabelLog]
    questions: Sequence[QuestionRecord]
    answered: frozenset[str]
    skipped: frozenset[str]
    waiting: frozenset[str]
    known: frozenset[tuple[str, int]]
    carried: frozenset[tuple[str, int]]
    cannot_be_shown: frozenset[tuple[str, int]]
    workers: tuple[dict[str, Any], ...]


def read_review_log(
    db: ProjectStore, settings: Settings, round_number: int, pools: Sequence[LabelPool]
) -> ReviewLog:
    """All answers of workers, as verdicts on the pools of this round."""
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
    told: dict[str, list[AnswerRecord]] = defaultdict(list)
    for answer in answers:
        told[answer.question_key].append(answer)
    answered = {key for key, said in told.items() if any(answer.value != SKIP for answer in said)}
    rows = {(pool.label, key): (pool.label, row) for pool in pools for key, row in pool.rows_by_key().items()}
    same = _same_masks(pools, [q for q in questions if q.round < round_number and q.key in answered])
    unshown = _not_showable(db, pools)
    # a skip in an earlier round says nothing about this one
    counting = {q.key: told[q.key] for q in questions if q.key in answered or q.round == round_number}
    items, carried = _masks(db, round_number, {**same, **rows}, questions, counting, unshown)
    labels, weighed = _verdicts(settings, items, [pool.label for pool in pools])
    current = [question for question in questions if question.round == round_number]
    known = frozenset((item.label, item.row) for item in items if item.row >= 0)
    open_rows = {(items[i].label, items[i].row) for i in weighed.again}
    skipped = frozenset(q.key for q in current if told.get(q.key) and q.key not in answered)
    return ReviewLog(
        labels=labels,
        questions=current,
        answered=frozenset(
            q.key
            for q in current
            if q.key in answered or (q.review_task_id is None and rows.get((q.label, q.instance)) in known)
        ),
        skipped=skipped,
        waiting=frozenset(
            q.key for q in current if q.key in skipped and rows.get((q.label, q.instance)) in open_rows
        ),
        known=known,
        carried=frozenset(carried),
        cannot_be_shown=unshown,
        workers=weighed.workers,
    )


def _not_showable(db: ProjectStore, pools: Sequence[LabelPool]) -> frozenset[tuple[str, int]]:
    """(label, row) of masks whose task was deleted or whose picture could not be read."""
    query = select(TaskRecord.id).where(
        TaskRecord.project_id == db.id, TaskRecord.broken == "", TaskRecord.image_error == ""
    )
    with db.read() as session:
        fine = np.array(list(session.scalars(query)), np.int64)
    return frozenset(
        (pool.label, row)
        for pool in pools
        for row in np.flatnonzero(~np.isin(pool.table.task_id, fine)).tolist()
    )


def _masks(
    db: ProjectStore,
    round_number: int,
    rows: Mapping[tuple[str, str], tuple[str, int]],
    questions: Sequence[QuestionRecord],
    told: Mapping[str, Sequence[AnswerRecord]],
    cannot_be_shown: Collection[tuple[str, int]],
) -> tuple[list[AskedMask], set[tuple[str, int]]]:
    """Masks that have answers, and those among them whose answers come from an earlier round.

    A verdict on a mask answers every question about it, so it is in the log once for each sample that the
    mask was drawn for. An answer carried over from an earlier round belongs to no random sample (cluster -1,
    see clustering.propagation) until this round draws its mask. A drawn mask that cannot be shown is in the
    log too, as unsure.
    """
    masks: dict[tuple[str, str | int], AskedMask] = {}
    strays: dict[tuple[str, str], list[QuestionRecord]] = defaultdict(list)
    carried: set[tuple[str, int]] = set()
    for question in sorted(questions, key=lambda question: question.round == round_number):
        is_current = question.round == round_number
        row = rows.get((question.label, question.instance))
        said = told.get(question.key, ())
        if row is None:
            if said:
                strays[question.label, question.instance].append(question)
            continue
        mask = masks.setdefault(row, AskedMask(question.label, row[1], question.prior))
        if is_current and question.repeat == 0:
            mask.draws.append((question.cluster, question.stream, question.inclusion))
        if is_current and question.review_task_id is None and row in cannot_be_shown:
            mask.cannot_be_shown = True
        if said:
            _add(mask, said, question.repeat)
            if not is_current:
                carried.add(row)
    masks = {name: mask for name, mask in masks.items() if mask.told or mask.cannot_be_shown}
    gold = _gold(db, strays)
    for name, group in strays.items():
        stray = masks.setdefault(name, AskedMask(name[0], -1, group[0].prior, gold.get(name, np.nan)))
        for question in group:
            _add(stray, told[question.key], question.repeat)
    return list(masks.values()), carried


def _add(mask: AskedMask, answers: Sequence[AnswerRecord], repeat: int) -> None:
    mask.questions += 1
    mask.told += [
        Told(
            at=answer.created_at,
            annotation_id=answer.annotation_id,
            worker=answer.worker,
            yes=_VALUES[answer.value],
            seconds=np.nan if answer.seconds is None else answer.seconds,
            is_hidden=repeat >= HIDDEN,
            is_skip=answer.value == SKIP,
        )
        for answer in answers
    ]


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
    """Known truth of masks that are in no pool (gold), from what people drew on their tasks."""
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
        truth[name] = float(best > GOOD_IOU)
    return truth


def _verdicts(
    settings: Settings, masks: Sequence[AskedMask], labels: Sequence[str]
) -> tuple[dict[str, LabelLog], Weighed]:
    weighed = weigh(masks, settings)
    result = {}
    for label in labels:
        mine = [i for i, mask in enumerate(masks) if mask.label == label and mask.row >= 0]
        settled = sorted((i for i in mine if i not in weighed.again), key=lambda i: _known_since(masks[i]))
        result[label] = LabelLog(
            _log([(masks[i], weighed.p_yes[i]) for i in settled]),
            again=np.array([masks[i].row for i in mine if i in weighed.again], np.int64),
            expert=np.array([masks[i].row for i in mine if i in weighed.expert], np.int64),
        )
    return result, weighed


def _log(settled: Sequence[tuple[AskedMask, float]]) -> AnswerLog:
    """One row per draw, and one outside of every sample for masks that were not drawn in this round."""
    rows = [
        (mask.row, yes, *draw)
        for mask, yes in settled
        for draw in mask.draws or [(-1, int(Stream.SEARCH), 1.0)]
    ]
    row, yes, cluster, stream, inclusion = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return AnswerLog(
        item=np.array(row, np.int64),
        yes=np.array(yes, np.float32),
        cluster=np.array(cluster, np.int64),
        stream=np.array(stream, np.int8),
        inclusion=np.array(inclusion, np.float64),
    )


def _known_since(mask: AskedMask) -> tuple[tuple[datetime, int], int]:
    """Sort key of a verdict: its last answer."""
    return max(((one.at, one.annotation_id) for one in mask.told), default=(_EPOCH, 0)), mask.row
