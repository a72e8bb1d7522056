"""Facts: what the worker tells the backend about a project (``projects/<id>/project.json``)."""

from __future__ import annotations

from typing import Any

from ml_backend.artifacts.project_facts import ProjectFacts, load_facts, save_facts
from ml_backend.errors import BadInput
from sync.rounds.project import Project
from sync.rounds.round_records import trained_round
from sync.store.tables import ProjectRecord

__all__ = ["write_facts"]


def write_facts(project: Project) -> None:
    """Write the facts of a project when they changed; what others set (the segmenter) is kept."""
    data_dir = project.settings.data_dir
    with project.read() as session:
        record = session.get_one(ProjectRecord, project.id)
    shown = trained_round(project)
    changes: dict[str, Any] = {
        "key": project.key,
        "title": project.title,
        "kind": project.config.kind,
        "label_config": project.config.xml,
        "labels": project.config.labels,
        "model_version": shown.pushed if shown is not None else "",
        "learner": project.settings.learner,
        "push_min_score": project.settings.push_min_score,
        "options": dict(record.options),
    }
    if record.review_project_id is not None:
        changes["review_project_id"] = record.review_project_id
    try:
        known = load_facts(data_dir, project.id)
        fresh = known.with_changes(**changes)
    except BadInput:
        known, fresh = None, ProjectFacts(project_id=project.id, **changes)
    if fresh != known:
        save_facts(data_dir, fresh)
