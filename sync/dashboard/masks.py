"""Where the masks come from, and what questions did: over the rounds, and per label in the newest one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import task_of_key
from ml_backend.artifacts.verdicts import read_verdicts
from sync.dashboard.annotations import AnnotationLine, finished_by_hand, speaking
from sync.dashboard.figures import LabelRow, MaskRow, QuestionRow
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, QuestionRecord, RoundRecord

__all__ = ["Accepted", "accepted_by_label", "label_rows", "mask_rows", "question_rows"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Decided masks of a label in one round; ``sure`` is the sum of the lower bounds of the purity of those
    nobody saw, i.e. how many of them are good at least, ``may_be`` that of the upper bounds."""

    verified: int
    propagated: int
    rejected: int
    sure: float
    may_be: float


def accepted_by_label(
    paths: ProjectPaths, record: RoundRecord | None, *, but_for: Collection[int] = ()
) -> dict[str, Accepted]:
    """Decided masks of a round by label; empty before its first review. Raises StorageError.

    ``but_for``: tasks that people finished themselves, whose masks count as drawn.
    """
    if record is None:
        return {}
    table = read_verdicts(paths.round(record.number)).to_arrow()
    if but_for:
        done = set(but_for)
        table = table.filter(
            np.array([task_of_key(key) not in done for key in table["key"].to_pylist()], bool)
        )
    label = np.array(table["label"].to_pylist(), object)
    verdict, verified, lower, upper = (
        np.asarray(table[name].to_numpy(zero_copy_only=False))
        for name in ("verdict", "verified", "lower", "upper")
    )
    found = {}
    for name in dict.fromkeys(label.tolist()):
        mine = label == name
        yes, seen = mine & (verdict > 0), verified.astype(bool)
        unseen = yes & ~seen
        found[str(name)] = Accepted(
            verified=int((yes & seen).sum()),
            propagated=int(unseen.sum()),
            rejected=int((mine & (verdict < 0)).sum()),
            sure=float(np.nan_to_num(lower[unseen]).sum()),
            may_be=float(np.nan_to_num(upper[unseen], nan=1.0).sum()),
        )
    return found


def mask_rows(
    paths: ProjectPaths, lines: Sequence[AnnotationLine], rounds: Sequence[RoundRecord]
) -> tuple[MaskRow, ...]:
    """Masks by origin at the end of each round that was reviewed or trained; of the newest: now.

    What was drawn counts from when it was first submitted; what was deleted since does not count. Decisions
    about tasks that somebody has finished since do not count. Raises StorageError.
    """
    rows = []
    for place, record in enumerate(rounds):
        until = rounds[place + 1].started_at if place + 1 < len(rounds) else None
        done = speaking(line for line in lines if until is None or line.created_at <= until)
        accepted = accepted_by_label(paths, record, but_for=finished_by_hand(done)).values()
        rows.append(
            MaskRow(
                round=record.number,
                finished=len(done),
                drawn=sum(line.regions for line in done.values()),
                verified=sum(one.verified for one in accepted),
                propagated=sum(one.propagated for one in accepted),
                rejected=sum(one.rejected for one in accepted),
            )
        )
    return tuple(rows)


def question_rows(rounds: Sequence[RoundRecord]) -> tuple[QuestionRow, ...]:
    """What was asked in each round that asked anything."""
    return tuple(
        QuestionRow(
            round=record.number,
            asked=int(review.get("asked", 0)),
            answered=int(review.get("answered", 0)),
            skipped=int(review.get("skipped", 0)),
            accepted=int(review.get("accepted", 0)),
            masks_per_question=review.get("masks_per_question"),
        )
        for record in rounds
        if (review := record.figures.get("review"))
    )


def label_rows(
    db: ProjectStore,
    record: RoundRecord | None,
    accepted: Mapping[str, Accepted],
) -> tuple[LabelRow, ...]:
    """Pool, decisions and questions of every label in the round that is reviewed."""
    if record is None:
        return ()
    sizes: Mapping[str, Any] = record.figures.get("cluster", {}).get("pool", {})
    estimates = {
        row["label"]: (float(row["lower"]), float(row["upper"]), int(row["asked"]))
        for row in record.figures.get("review", {}).get("labels") or []
    }
    told = record.figures.get("review", {}).get("by_label") or []
    why = {row["label"]: str(row["reason"]) for row in told if row["why"] != "open"}
    asked, answered = _questions(db, record.number)
    rows = []
    for label, size in sizes.items():
        mine = accepted.get(label, Accepted(0, 0, 0, 0.0, 0.0))
        rows.append(
            LabelRow(
                label=str(label),
                pool=int(size),
                verified=mine.verified,
                propagated=mine.propagated,
                rejected=mine.rejected,
                open=max(0, int(size) - mine.verified - mine.propagated - mine.rejected),
                asked=asked[label],
                answered=answered[label],
                purity=estimates.get(label) if mine.propagated else None,
                why=why.get(label, ""),
            )
        )
    return tuple(rows)


def _questions(db: ProjectStore, number: int) -> tuple[Counter[str], Counter[str]]:
    """How many questions of a round each label had, and how many were answered."""
    mine = (
        QuestionRecord.project_id == db.id,
        QuestionRecord.round == number,
        QuestionRecord.review_task_id.is_not(None),
    )
    is_answered = (
        select(AnswerRecord.id)
        .where(
            AnswerRecord.project_id == db.id,
            AnswerRecord.question_key == QuestionRecord.key,
            AnswerRecord.value != "skip",
        )
        .exists()
    )
    query = select(QuestionRecord.label, func.count()).where(*mine).group_by(QuestionRecord.label)
    with db.read() as session:
        asked = Counter({str(label): int(n) for label, n in session.execute(query)})
        answered = Counter({str(label): int(n) for label, n in session.execute(query.where(is_answered))})
    return asked, answered
