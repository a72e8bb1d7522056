"""Clicks: what the worker does so that annotators' clicks are quick and good.

Embeddings of the images that will be served next are computed ahead, and (option ``train_clicks``) a small
click network is trained on the project's own finished masks. It serves only while it beats the configured
segmenter on the test split. Neither may stop a round: failures are noted and shown.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ml_backend.clicks.prewarm import embed_ahead
from ml_backend.clicks.service import ClickService, TaskRef
from ml_backend.clicks.train_click_job import job_spec, publish_click_model
from ml_backend.errors import BadInput, ModelError
from ml_backend.facts import load_facts
from sync.project_state import Project
from sync.steps.push import serving_order
from sync.steps.rounds import finish_step, load_snapshot
from sync.steps.train import examples_of
from sync.tables import RoundRecord

__all__ = ["prepare_clicks"]

_log = logging.getLogger(__name__)


def prepare_clicks(project: Project, record: RoundRecord, *, is_new_order: bool) -> RoundRecord:
    """Train this round's click network and embed ahead, where the settings ask for it; safe to repeat.

    ``is_new_order`` says that tasks are served in another order since the last call.
    """
    figures: dict[str, Any] = dict(record.figures.get("clicks", {}))
    before = dict(figures)
    if project.settings.train_clicks and figures.get("trained") != record.digest:
        figures |= _train(project, record)
    if project.settings.embed_ahead and (is_new_order or "embedded" not in figures):
        figures |= _embed(project, record)
    return finish_step(project, record.number, "clicks", figures) if figures != before else record


def _train(project: Project, record: RoundRecord) -> dict[str, Any]:
    snapshot = load_snapshot(project, record.number)
    labels = tuple(str(label) for label in snapshot["labels"])
    started = time.monotonic()

    def progress(share: float, line: str) -> None:
        project.report("clicks", min(share, 0.99), line)
        project.at("clicks.progress")

    try:
        spec = job_spec(
            examples_of(project, snapshot["train"], labels),
            examples_of(project, snapshot["test"], labels),
            labels,
            incumbent=project.settings.segmenter,
            options=project.settings.click_options,
        )
        version = f"click-r{record.number}-{record.digest[:10]}"
        report = publish_click_model(project.paths, version, spec, progress)
    except (ModelError, BadInput) as error:
        _log.error("project %s: the click network of round %s: %s", project.id, record.number, error)
        project.report("clicks", 1.0, f"not trained: {error}")
        return {"trained": record.digest, "failed": str(error)}
    project.report("clicks", 1.0, f"{version} {'serves' if report['use'] else 'does not beat the segmenter'}")
    return {
        "trained": record.digest,
        "failed": "",
        "version": version,
        "serves": bool(report["use"]),
        "seconds": round(time.monotonic() - started, 3),
    }


def _embed(project: Project, record: RoundRecord) -> dict[str, Any]:
    """Embed the tasks that are served next, until this many of them are there."""
    facts = load_facts(project.settings.data_dir, project.id)
    service = project.memo.get("clicks")
    if not isinstance(service, ClickService):
        service = project.memo["clicks"] = ClickService(project.settings, project.images)
    tasks = serving_order(project, record)[: project.settings.embed_ahead]
    report = embed_ahead(
        service,
        [TaskRef(facts, task, image) for task, image in tasks],
        progress=lambda done: project.report("clicks", done / max(len(tasks), 1), f"{done} images embedded"),
    )
    return {"embedded": report.encoded + report.present, "not_embedded": report.failed}
