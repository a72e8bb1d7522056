"""A fingerprint of everything that a review depends on: while it stays the same, a look changes nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, func, select

from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.progress import Memo, remembered
from sync.rounds.round_records import digest_of
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    QuestionRecord,
    ReviewTaskRecord,
    RoundRecord,
    TaskRecord,
)

__all__ = ["review_fingerprint"]

_SETTINGS = {
    "crop_size_px",
    "experts",
    "gold_share",
    "max_image_pixels",
    "min_answer_s",
    "policy",
    "policy_options",
    "promise_found",
    "question_batch",
    "question_budget",
    "repeat_share",
    "review_form",
    "review_overlap",
    "review_overlap_max",
    "review_url",
    "seed",
    "studio_public_url",
    "studio_url",
}
"""settings that a review reads"""


def review_fingerprint(
    db: ProjectStore, config: LabelConfig, settings: Settings, memo: Memo, record: RoundRecord
) -> str:
    """Digest of the round, the settings that matter, and that of questions, answers, labels, tasks."""
    return digest_of(
        {
            "round": [record.number, record.model_version],
            "config": config.digest,
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
            "counts": _counts(db, memo),
        }
    )


def _counts(db: ProjectStore, memo: Memo) -> list[list[str]]:
    """A few figures that stand for all rows: their count, the sum of their numbers, the largest number and
    the newest change. They are counted again when a row has changed.
    """
    return remembered(memo, ("review counts", db.id), db.revision(), lambda: _counted(db))


def _counted(db: ProjectStore) -> list[list[str]]:
    question, answer, shown = QuestionRecord, AnswerRecord, ReviewTaskRecord
    annotation, task = AnnotationRecord, TaskRecord
    columns: list[tuple[Any, list[Any]]] = [
        (question, [func.max(question.id), func.sum(question.review_task_id)]),
        (answer, [func.max(answer.id), func.max(answer.updated_at), func.sum(answer.review_task_id)]),
        (
            shown,
            [func.max(shown.id), _sum_of(shown.id, shown.is_open), _sum_of(shown.id, shown.broken != "")],
        ),
        (annotation, [func.sum(annotation.id), func.max(annotation.updated_at)]),
        (
            task,
            [
                func.max(task.updated_at),
                _sum_of(task.id, task.finished),
                _sum_of(task.id, task.broken != ""),
                _sum_of(task.id, task.image_error != ""),
            ],
        ),
    ]
    with db.read() as session:
        counts = [
            [
                str(value)
                for value in session.execute(
                    select(func.count(), *rest).where(table.project_id == db.id)
                ).one()
            ]
            for table, rest in columns
        ]
    return counts


def _sum_of(number: Any, condition: Any) -> Any:
    """Sum of the numbers of the rows that meet a condition: it changes when one row takes another's place."""
    return func.sum(case((condition, number), else_=0))
