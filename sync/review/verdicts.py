"""From workers' answers to the verdicts a policy reads, one log for all labels of a round.

Everything is computed anew from the stored answers at each look, so withdrawing an answer undoes its effect.
How the answers about a mask become one verdict is worked out in ``weighing``.

A test may read the answers of its own certificate only. Answers to other questions (of an earlier round, or
of this one under other settings) verify their masks and teach the verifier, as if they had been given before
the search. Those that come when the certificate's test has begun do not: the tested sets must not move. They
count like masks that are asked about one by one.
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
from clustering.project_pool import Lessons
from clustering.search import HARVEST_PHASE
from sync.review.answers import SKIP
from sync.review.question import FORMS, HIDDEN
from sync.review.weighing import SHEET_PACE, AskedMask, Draw, Told, Weighed, weigh
from sync.rounds.absent import absent_labels, is_absent
from sync.rounds.cluster import LabelPool
from sync.rounds.policies import reads_first_answers, terms_digest
from sync.rounds.region_rows import drawn_masks, plain_rle
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, QuestionRecord, TaskRecord

__all__ = ["Certificate", "ReviewLog", "certificate_of", "offsets", "read_review_log"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = Draw(-1, HARVEST_PHASE, int(Stream.HARVEST), 1.0)
"""Masks asked about one by one, and answers of others that come when the tested sets are fixed."""


_VALUES = {"yes": 1.0, "no": 0.0, "unsure": np.nan, SKIP: np.nan}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Which promise of the project a round's questions may be a test of.

    ``number`` is 1 for the first; ``terms`` is the digest of the settings that it rests on.
    """

    number: int
    terms: str


def certificate_of(questions: Sequence[QuestionRecord], round_number: int, terms: str) -> Certificate:
    """The certificate of a round under these terms: the one it has, else a new one of the project.

    A number that was used is never used for other terms or another round, since each number has its own share
    of the error that the project's promise allows.
    """
    mine = [
        q.certificate for q in questions if q.round == round_number and q.terms == terms and q.certificate
    ]
    return Certificate(mine[-1] if mine else 1 + max((q.certificate for q in questions), default=0), terms)


@dataclass(frozen=True, slots=True, eq=False)
class ReviewLog:
    """Verdicts of all labels of a round, with the questions behind them.

    Rows are rows of the project's pool: those of the first label, then those of the second, and so on.

    Attributes
    ----------
    log : what the policy reads
    certificate : which promise the round's questions are about
    questions : those of this round
    answered : keys among them that need no answer any more
    skipped : keys among them that somebody skipped and nobody answered: they wait for nobody in particular
    waiting : those of ``skipped`` whose mask needs another worker
    known : masks that have a verdict, or whose picture cannot be shown
    carried : masks with answers of an earlier round to the very same mask
    nearly : masks with answers of an earlier round to a mask that is nearly the same
    cannot_be_shown : masks whose picture cannot be shown any more
    again : (k,) int64, masks that need one more worker
    expert : (k,) int64, masks still open after all workers who may answer have answered
    spent : masks that nobody else may be asked about
    decided : masks that an expert decided, and how: 1 good, 0 bad
    gold : what first answers to gold masks were, see ``Weighed``
    workers : the report on the crowd, empty while answers count as true
    """

    log: AnswerLog
    certificate: Certificate
    questions: Sequence[QuestionRecord]
    answered: frozenset[str]
    skipped: frozenset[str]
    waiting: frozenset[str]
    known: frozenset[int]
    carried: frozenset[int]
    nearly: frozenset[int]
    cannot_be_shown: frozenset[int]
    again: npt.NDArray[np.int64]
    expert: npt.NDArray[np.int64]
    spent: frozenset[int]
    decided: Mapping[int, float]
    gold: tuple[int, int, int, int]
    workers: tuple[dict[str, Any], ...]


def offsets(pools: Sequence[LabelPool]) -> npt.NDArray[np.int64]:
    """(labels + 1,) int64: rows ``[i]:[i + 1]`` of the project's pool belong to pool i."""
    return np.cumsum([0, *(len(pool) for pool in pools)]).astype(np.int64)


def read_review_log(
    db: ProjectStore,
    settings: Settings,
    round_number: int,
    pools: Sequence[LabelPool],
    *,
    lessons: Lessons | None = None,
) -> ReviewLog:
    """All answers of workers, as verdicts on the pools of this round.

    ``lessons`` are those that the policy gets; they say which certificate the answers belong to, not what
    they are. Raises BadInput on a wrong policy.
    """
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
    certificate = certificate_of(questions, round_number, terms_digest(settings, lessons))
    told: dict[str, list[AnswerRecord]] = defaultdict(list)
    for answer in answers:
        told[answer.question_key].append(answer)
    answered = {key for key, said in told.items() if any(answer.value != SKIP for answer in said)}
    rows = {
        (pool.label, key): int(first) + row
        for pool, first in zip(pools, offsets(pools), strict=False)
        for key, row in pool.rows_by_key().items()
    }
    older = [q for q in questions if q.round < round_number and q.key in answered]
    same, hints = _predecessors(pools, rows, older)
    unshown = _not_showable(db, pools)
    # a skip in an earlier round says nothing about this one
    counting = {q.key: told[q.key] for q in questions if q.key in answered or q.round == round_number}
    current = [question for question in questions if question.round == round_number]
    # the row of the mask that a question is about, where it is in the pool
    row_of = {
        q.key: row
        for q in questions
        if (row := rows.get((q.label, q.instance))) is not None
        and (q.round == round_number or (q.label, q.instance) in same)
    }
    items, carried = _masks(db, round_number, pools, certificate, row_of, hints, questions, counting, unshown)
    absent = frozenset(item.row for item in items if item.row >= 0 and not np.isnan(item.gold))
    first_answers = reads_first_answers(settings)
    weighed = weigh(items, settings, reads_first_answers=first_answers)
    known = frozenset(item.row for item in items if item.row >= 0)
    open_rows = {items[i].row for i in weighed.again}
    skipped = frozenset(q.key for q in current if told.get(q.key) and q.key not in answered)
    return ReviewLog(
        log=_log(items, weighed, every_answer=first_answers),
        certificate=certificate,
        questions=current,
        answered=frozenset(
            q.key
            for q in current
            if q.key in answered
            or row_of.get(q.key) in absent
            or (q.review_task_id is None and row_of.get(q.key) in known)
        ),
        skipped=skipped,
        waiting=frozenset(q.key for q in current if q.key in skipped and row_of.get(q.key) in open_rows),
        known=known,
        carried=frozenset(carried),
        nearly=frozenset(hints.values()),
        cannot_be_shown=unshown,
        again=_rows_of(items, weighed.again),
        expert=_rows_of(items, weighed.expert),
        spent=frozenset(items[i].row for i in weighed.spent),
        decided={items[i].row: value for i, value in weighed.decided.items()},
        gold=weighed.gold,
        workers=weighed.workers,
    )


def _rows_of(items: Sequence[AskedMask], places: Collection[int]) -> npt.NDArray[np.int64]:
    return np.array(sorted(items[i].row for i in places if items[i].row >= 0), np.int64)


def _not_showable(db: ProjectStore, pools: Sequence[LabelPool]) -> frozenset[int]:
    """Masks whose task was deleted or whose picture could not be read."""
    query = select(TaskRecord.id).where(
        TaskRecord.project_id == db.id, TaskRecord.broken == "", TaskRecord.image_error == ""
    )
    with db.read() as session:
        fine = np.array(list(session.scalars(query)), np.int64)
    return frozenset(
        int(first) + row
        for pool, first in zip(pools, offsets(pools), strict=False)
        for row in np.flatnonzero(~np.isin(pool.table.task_id, fine)).tolist()
    )


def _masks(
    db: ProjectStore,
    round_number: int,
    pools: Sequence[LabelPool],
    certificate: Certificate,
    row_of: Mapping[str, int],
    hints: Mapping[tuple[str, str], int],
    questions: Sequence[QuestionRecord],
    told: Mapping[str, Sequence[AnswerRecord]],
    cannot_be_shown: Collection[int],
) -> tuple[list[AskedMask], set[int]]:
    """Masks that have answers, and rows of those among them whose answers come from an earlier round.

    A verdict on a mask answers every question about it, so it is in the log once for each sample that the
    mask was drawn for. A drawn mask that cannot be shown is in the log too, as unsure. ``hints``: rows of
    masks that are nearly the same as one of an earlier round.
    """
    masks: dict[int, AskedMask] = {}
    strays: dict[tuple[str, str], list[QuestionRecord]] = defaultdict(list)
    carried: set[int] = set()
    for question in sorted(questions, key=lambda question: question.round == round_number):
        is_current = question.round == round_number
        row = row_of.get(question.key)
        said = told.get(question.key, ())
        if row is None:
            if said:
                strays[question.label, question.instance].append(question)
            continue
        mask = masks.setdefault(row, AskedMask(question.label, row))
        if is_current and question.repeat == 0:
            if question.certificate == certificate.number:
                mask.draws.append(Draw(question.cluster, question.phase, question.stream, question.inclusion))
            else:
                # the cluster is one of the same tree: policies that read no phase go on with it
                mask.former = mask.former or Draw(question.cluster, inclusion=question.inclusion)
        if is_current and question.review_task_id is None and row in cannot_be_shown:
            mask.cannot_be_shown = True
        if said:
            _add(mask, question, said)
            if not is_current:
                carried.add(row)
    _add_absent(db, pools, masks)
    found = [mask for mask in masks.values() if mask.told or mask.cannot_be_shown or not np.isnan(mask.gold)]
    gold = _gold(db, strays, {pool.label: pool for pool in pools})
    for name, group in strays.items():
        stray = AskedMask(name[0], -1, gold.get(name, np.nan), hint=hints.get(name, -1))
        for question in group:
            _add(stray, question, told[question.key])
        found.append(stray)
    return found, carried


def _add_absent(db: ProjectStore, pools: Sequence[LabelPool], masks: dict[int, AskedMask]) -> None:
    """Masks of a label that somebody has said since the pool was frozen is not on the picture: they are bad.

    A mask of which this is known counts as bad whatever was answered about it, unless an expert says so.
    """
    absent = absent_labels(db, [pool.wanted for pool in pools])
    for pool, first in zip(pools, offsets(pools), strict=False):
        for row in np.flatnonzero(is_absent(absent, pool.table)).tolist():
            mask = masks.setdefault(int(first) + row, AskedMask(pool.label, int(first) + row))
            said = absent[int(pool.table.task_id[row])]
            mask.gold, mask.gold_since = 0.0, (said.since, said.annotation_id)


def _add(mask: AskedMask, question: QuestionRecord, answers: Sequence[AnswerRecord]) -> None:
    mask.questions += 1
    mask.told += [
        Told(
            at=answer.created_at,
            annotation_id=answer.annotation_id,
            worker=answer.worker,
            yes=_VALUES[answer.value],
            seconds=np.nan if answer.seconds is None else answer.seconds,
            is_hidden=question.repeat >= HIDDEN,
            is_skip=answer.value == SKIP,
            pace=SHEET_PACE if FORMS[question.form] == "sheet" else 1.0,
        )
        for answer in answers
    ]


def _predecessors(
    pools: Sequence[LabelPool],
    rows: Mapping[tuple[str, str], int],
    older: Sequence[QuestionRecord],
) -> tuple[set[tuple[str, str]], dict[tuple[str, str], int]]:
    """Which masks of earlier rounds are in the pool again.

    A mask whose pixels are the same has the same answers. One that is only nearly the same (IoU 0.9 or more)
    may be bad where the other is good: its IoU with the object may be lower by a tenth of the union and more.

    Returns
    -------
    same : (label, instance) of masks that are there pixel by pixel
    nearly : (label, instance) of an earlier round -> row of the mask of this pool that is nearly the same
    """
    same: set[tuple[str, str]] = set()
    nearly: dict[tuple[str, str], int] = {}
    for pool, first in zip(pools, offsets(pools), strict=False):
        asked = {q.instance: q for q in older if q.label == pool.label}
        for name, question in asked.items():
            row = rows.get((pool.label, name))
            if row is not None and plain_rle(pool.table.rle(row - int(first))) == plain_rle(question.rle):
                same.add((pool.label, name))
        taken = np.array([rows[name] - first for name in same if name[0] == pool.label], np.int64)
        others = {name: q for name, q in asked.items() if (pool.label, name) not in same}
        for name, row in _overlapping(pool, others, taken).items():
            nearly[pool.label, name] = int(first) + row
    return same, nearly


def _overlapping(
    pool: LabelPool, asked: Mapping[str, QuestionRecord], taken: npt.NDArray[np.int64]
) -> dict[str, int]:
    """Instance of an earlier round -> row of the pool whose mask overlaps it with IoU 0.9 or more.

    ``taken`` rows are left out: they are there pixel by pixel.
    """
    names = sorted(asked)
    order = np.argsort(pool.table.task_id, kind="stable")
    order = order[~np.isin(order, taken)]
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
    if not overlaps:
        return {}
    iou = np.clip(np.concatenate(overlaps), 0.0, 1.0)
    old, new = match_pools(np.concatenate(old_rows), np.concatenate(new_rows), iou, np.ones(len(iou), bool))
    return {names[i]: row for i, row in zip(old.tolist(), new.tolist(), strict=True)}


def _gold(
    db: ProjectStore,
    strays: Mapping[tuple[str, str], Sequence[QuestionRecord]],
    of_label: Mapping[str, LabelPool],
) -> dict[tuple[str, str], float]:
    """Known truth of masks that are in no pool (gold), from what people drew on their tasks."""
    if not strays:
        return {}
    finished = finished_tasks(db)
    truth: dict[tuple[str, str], float] = {}
    for name, group in strays.items():
        found = finished.get(group[0].task_id)
        pool = of_label.get(name[0])
        if found is None or pool is None:
            continue
        rle = group[0].rle
        hw = (int(rle["size"][0]), int(rle["size"][1]))
        rows = [row for row in found[1].regions if row["rle"] is None or tuple(row["rle"]["size"]) == hw]
        drawn = [mask for _, mask in drawn_masks([pool.wanted], rows, hw)]
        best = float(coco.iou([rle], drawn, [0] * len(drawn)).max()) if drawn else 0.0
        truth[name] = float(best > pool.kind.good_iou)
    return truth


def _log(items: Sequence[AskedMask], weighed: Weighed, *, every_answer: bool) -> AnswerLog:
    """The rows of the policy, in the order in which they became known.

    A mask has one row per draw of the present certificate, or one outside of every sample. With
    ``every_answer`` further people's answers have rows of their own.
    """
    begun = _test_began(items, weighed)
    rows: list[tuple[tuple[datetime, int], int, float, float, Draw]] = []
    for i, mask in enumerate(items):
        said, yes = weighed.said[i], weighed.p_yes[i]
        since = (said[0].at, said[0].annotation_id) if said else mask.gold_since or (_EPOCH, 0)
        if mask.row < 0:
            if mask.hint >= 0 and yes != 0.5 and since < begun:
                rows.append((since, mask.hint, yes, np.nan, Draw(stream=int(Stream.CARRIED))))
            continue
        if i in weighed.again:
            continue
        first = said[0].yes if said else np.nan
        # one person's answer must not count as two where each mask is judged by itself
        drawn = [draw for draw in mask.draws if draw.phase != HARVEST_PHASE] or mask.draws
        for draw in drawn or [(mask.former or Draw()) if since < begun else _LATE]:
            rows.append((since, mask.row, yes, first, draw))
        if every_answer:
            rows += [((one.at, one.annotation_id), mask.row, yes, one.yes, _LATE) for one in said[1:]]
    rows.sort(key=lambda row: row[:2])
    return AnswerLog(
        item=np.array([row for _, row, _, _, _ in rows], np.int64),
        yes=np.array([yes for _, _, yes, _, _ in rows], np.float32),
        answer=np.array([answer for _, _, _, answer, _ in rows], np.float32),
        cluster=np.array([draw.cluster for *_, draw in rows], np.int64),
        phase=np.array([draw.phase for *_, draw in rows], np.int64),
        stream=np.array([draw.stream for *_, draw in rows], np.int8),
        inclusion=np.array([draw.inclusion for *_, draw in rows], np.float64),
    )


def _test_began(items: Sequence[AskedMask], weighed: Weighed) -> tuple[datetime, int]:
    """When the first answer was given that a test of the present certificate reads."""
    first = [
        (weighed.said[i][0].at, weighed.said[i][0].annotation_id)
        for i, mask in enumerate(items)
        if weighed.said[i] and any(draw.stream == Stream.CALIBRATION for draw in mask.draws)
    ]
    return min(first, default=(datetime.max.replace(tzinfo=UTC), 0))
