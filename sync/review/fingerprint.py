"""A fingerprint of everything a review follows from: while it stays, another look changes nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from ml_backend.label_studio.label_config import LabelConfig
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
    "min_answer_s",
    "policy",
    "policy_options",
    "question_batch",
    "question_budget",
    "repeat_share",
    "review_form",
    "review_overlap",
    "review_overlap_max",
    "review_url",
    "seed",
    "studio_url",
}
"""settings that a review reads"""


def review_fingerprint(db: ProjectStore, config: LabelConfig, settings: Settings, record: RoundRecord) -> str:
    """Digest of the round, the settings that matter, and the state of questions, answers, labels and tasks.

    Rows are told by their number, the newest of them and their newest change: a few counts instead of all
    rows.
    """
    question, answer, shown = QuestionRecord, AnswerRecord, ReviewTaskRecord
    annotation, task = AnnotationRecord, TaskRecord
    columns: list[tuple[Any, list[Any]]] = [
        (question, [func.max(question.id), func.sum(question.review_task_id)]),
        (answer, [func.max(answer.id), func.max(answer.updated_at), func.sum(answer.review_task_id)]),
        (
            shown,
            [func.max(shown.id), func.sum(_as_int(shown.is_open)), func.sum(_as_int(shown.broken != ""))],
        ),
        (annotation, [func.sum(annotation.id), func.max(annotation.updated_at)]),
        (
            task,
            [
                func.max(task.updated_at),
                func.sum(_as_int(task.finished)),
                func.sum(_as_int(task.broken != "")),
                func.sum(_as_int(task.image_error != "")),
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
    return digest_of(
        {
            "round": [record.number, record.model_version],
            "config": config.digest,
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
            "counts": counts,
        }
    )


def _as_int(condition: Any) -> Any:
    from sqlalchemy import case

    return case((condition, 1), else_=0)
