"""Facts: the file in which the worker tells the backend about a project (``projects/<id>/project.json``)."""

from __future__ import annotations

from typing import Any

from ml_backend.artifacts.project_facts import ProjectFacts, load_facts, save_facts
from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.round_records import trained_round
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord

__all__ = ["write_facts"]


def write_facts(db: ProjectStore, config: LabelConfig, settings: Settings) -> None:
    """Write the facts of a project when they changed; fields that others set are kept.

    So is a segmenter that an earlier release wrote there without making it an option of the project.
    """
    data_dir = settings.data_dir
    with db.read() as session:
        record = session.get_one(ProjectRecord, db.id)
    shown = trained_round(db)
    changes: dict[str, Any] = {
        "key": db.key,
        "title": db.title,
        "kind": config.kind,
        "label_config": config.xml,
        "labels": config.labels,
        "model_version": shown.pushed if shown is not None else "",
        "learner": settings.learner,
        "push_min_score": settings.push_min_score,
        "max_tags_per_pixel": settings.max_tags_per_pixel,
        "options": dict(record.options),
        "paused": record.paused,
    }
    if record.review_project_id is not None:
        changes["review_project_id"] = record.review_project_id
    try:
        known = load_facts(data_dir, db.id)
        if "segmenter" in {*record.options, *known.options}:
            changes["segmenter"] = str(record.options.get("segmenter", ""))
        fresh = known.with_changes(**changes)
    except BadInput:
        changes["segmenter"] = str(record.options.get("segmenter", ""))
        known, fresh = None, ProjectFacts(project_id=db.id, **changes)
    if fresh != known:
        save_facts(data_dir, fresh, guard=db.guard)
