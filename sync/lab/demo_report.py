"""The figures of a demo: cost and result of each round, measured against the ground truth.

Precision is the share of accepted masks that overlap a true instance of their label well enough for their
kind, with a 95 % Wilson interval. (Masks of one picture are not independent, so it is a little too narrow.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import StorageError
from sync.lab.ground_truth import Truth
from sync.rounds.cluster import load_label_pools
from sync.rounds.progress import Memo
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, QuestionRecord, RoundRecord, TaskRecord

__all__ = ["DemoReport", "RoundFigures", "Share", "measure_round"]

_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """A share or score with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, good: int, n: int) -> Share | None:
        """Wilson interval of ``good`` among ``n``, None when there are none."""
        if n == 0:
            return None
        p = good / n
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return cls(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f}, n={self.n})"


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One round. Masks are instances of the round's pool; ``*_s`` are seconds.

    ``metrics`` are those of the learner on the test split, ``headline`` the name of the main one of the kind.
    ``propagated`` are the accepted masks that nobody was asked about. ``pool_precision`` is the share of
    good masks in the whole pool: what accepting everything unseen would give. ``recall`` is the share of the
    true instances on the tasks of the pool that an accepted good mask shows. ``answer_hours`` is the time of
    the round's answers, ``hours_to_finish`` adds the drawing of the instances that no accepted good mask
    shows, at what drawing takes for the kind. ``promise`` is what the policy says about its masks, ``found``
    what the test pictures say about missing ones, both as in the figures of the review.
    """

    round: int
    model_version: str
    labelled_tasks: int
    train_tasks: int
    headline: str
    metrics: Mapping[str, Share]
    pool: int
    pool_precision: Share | None
    questions: int
    answers: int
    accepted: int
    propagated: int
    rejected: int
    precision: Share | None
    precision_propagated: Share | None
    masks_per_question: float | None
    recall: float | None
    answer_hours: float = 0.0
    hours_to_finish: float = 0.0
    promise: Mapping[str, Any] | None = None
    found: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """A whole demo: how it was set up, its rounds, and its wall time."""

    setup: Mapping[str, Any]
    rounds: Sequence[RoundFigures]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure_round(
    db: ProjectStore,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
    truth: Truth,
    *,
    seconds: Mapping[str, float],
) -> RoundFigures:
    """Compare what a reviewed round decided with the ground truth."""
    tables = [pool.table for pool in load_label_pools(db, paths, memo, record) if len(pool)]
    shown = {key: which for table in tables for key, which in _shown(db, table, truth).items()}
    good = {key: which is not None for key, which in shown.items()}
    verdicts = [v for v in read_verdicts(paths.round(record.number)).rows.values() if v.key in good]
    accepted = [v for v in verdicts if v.verdict > 0]
    propagated = [v for v in accepted if not v.verified]
    review = record.figures.get("review", {})
    answers = int(review.get("answered", 0))
    train = record.figures.get("train", {})
    true = _true_instances(db, tables, truth)
    found = len({shown[v.key] for v in accepted if good[v.key]})
    hours = _answer_hours(db, record.number)
    steps = {
        step: float(record.figures[step]["seconds"])
        for step in ("pull", "train", "infer", "cluster", "review", "push")
        if "seconds" in record.figures.get(step, {})
    }
    return RoundFigures(
        round=record.number,
        model_version=record.model_version,
        labelled_tasks=record.finished_tasks,
        train_tasks=int(train.get("n_train", 0)),
        headline=truth.kind.headline,
        metrics=_metrics(train),
        pool=len(good),
        pool_precision=Share.of(sum(good.values()), len(good)),
        questions=int(review.get("asked", 0)),
        answers=answers,
        accepted=len(accepted),
        propagated=len(propagated),
        rejected=sum(v.verdict < 0 for v in verdicts),
        precision=Share.of(sum(good[v.key] for v in accepted), len(accepted)),
        precision_propagated=Share.of(sum(good[v.key] for v in propagated), len(propagated)),
        masks_per_question=len(accepted) / answers if answers else None,
        recall=found / true if true else None,
        answer_hours=hours,
        hours_to_finish=hours + (true - found) * truth.kind.drawn_s / 3600.0,
        promise=review.get("promise"),
        found=review.get("found"),
        seconds={**steps, **seconds},
    )


def _metrics(train: Mapping[str, Any]) -> dict[str, Share]:
    """What the learner measured on the test split."""
    found = {}
    for name, values in train.get("metrics", {}).items():
        value, low, high = (float(v) for v in values)
        found[name] = Share(value, low, high, int(train["n_test"]))
    return found


def _addresses(db: ProjectStore, task_ids: npt.NDArray[np.int64]) -> dict[int, str]:
    ids = sorted({int(task) for task in task_ids})
    with db.read() as session:
        rows = session.execute(select(TaskRecord.id, TaskRecord.image).where(TaskRecord.project_id == db.id))
        known = {int(task): str(image) for task, image in rows}
    missing = [task for task in ids if task not in known]
    if missing:
        raise StorageError(
            f"the store does not know task {missing[0]}", hint="Run `groundswell rebuild` and try again"
        )
    return {task: known[task] for task in ids}


def _answer_hours(db: ProjectStore, number: int) -> float:
    """Time that people spent on the questions of a round."""
    query = (
        select(func.sum(AnswerRecord.seconds))
        .join(QuestionRecord, QuestionRecord.key == AnswerRecord.question_key)
        .where(
            AnswerRecord.project_id == db.id,
            QuestionRecord.project_id == db.id,
            QuestionRecord.round == number,
        )
    )
    with db.read() as session:
        return float(session.scalar(query) or 0.0) / 3600.0


def _shown(db: ProjectStore, table: PoolTable, truth: Truth) -> dict[str, tuple[int, str, int] | None]:
    """Per instance key of one label's pool: the true instance that it shows well enough, if any.

    A true instance is named by its task, its label, and its place among those of the label.
    """
    address = _addresses(db, table.task_id)
    found: dict[str, tuple[int, str, int] | None] = {}
    for task in np.unique(table.task_id):
        rows = np.flatnonzero(table.task_id == task)
        label = str(table.label[rows[0]])
        iou, which = truth.best_match(address[int(task)], label, [table.rle(int(row)) for row in rows])
        for row, value, place in zip(rows, iou.tolist(), which.tolist(), strict=True):
            found[str(table.key[row])] = (int(task), label, place) if value > truth.kind.good_iou else None
    return found


def _true_instances(db: ProjectStore, tables: Sequence[PoolTable], truth: Truth) -> int:
    tasks = np.unique(np.concatenate([t.task_id for t in tables])) if tables else np.zeros(0, np.int64)
    return sum(len(truth.image(address).label) for address in _addresses(db, tasks).values())
