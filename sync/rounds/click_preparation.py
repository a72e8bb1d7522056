"""Clicks: what the worker does so that annotators' clicks are quick and good.

Embeddings of the images that will be served next are computed ahead, and (option ``train_clicks``) a small
click network is trained on the project's own finished masks, beside the worker's looks, when enough was
finished since the last one. It serves only while it beats the configured segmenter on the test split. Neither
may stop a round: failures are noted and shown.
"""

from __future__ import annotations

from typing import Any

from ml_backend.artifacts.project_facts import load_facts
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.clicks.serving.prewarm import TaskRef, embed_ahead
from ml_backend.clicks.serving.service import ClickService
from sync.rounds.click_training import ClickTraining, training_reason
from sync.rounds.project import Project
from sync.rounds.push import serving_order
from sync.rounds.round_records import finish_step
from sync.store.tables import RoundRecord

__all__ = ["click_training", "prepare_clicks"]


def prepare_clicks(project: Project, record: RoundRecord, *, is_new_order: bool) -> RoundRecord:
    """Look after this project's click network and embed ahead, where the settings ask for it; safe to repeat.

    ``is_new_order`` says that tasks are served in another order since the last call. Returns at once while a
    click network is being trained: a later call notes what came of it.
    """
    record = _note_training(project, record)
    figures: dict[str, Any] = dict(record.figures.get("clicks", {}))
    before = dict(figures)
    if project.settings.embed_ahead and (is_new_order or "embedded" not in figures):
        figures |= _embed(project, record)
    if figures != before:
        record = finish_step(project, record.number, "clicks", figures)
    if project.settings.train_clicks:
        _train_if_due(project, record)
    return record


def click_training(project: Project) -> ClickTraining | None:
    """The click network that this worker is training for the project, or has trained since its last look."""
    found = project.memo.get(("click training", project.id))
    return found if isinstance(found, ClickTraining) else None


def _note_training(project: Project, record: RoundRecord) -> RoundRecord:
    """Report how far this project's training is, or write down what came of it."""
    training = click_training(project)
    if training is None:
        return record
    if training.figures is None:
        project.report("clicks", min(training.share, 0.99), training.line)
        return record
    del project.memo["click training", project.id]
    figures = {"trained": training.digest, **training.figures}
    noted = finish_step(project, training.round, "clicks", figures)
    if figures["failed"]:
        project.report("clicks", 1.0, f"not trained: {figures['failed']}")
    else:
        verdict = "serves" if figures["serves"] else "does not beat the segmenter"
        project.report("clicks", 1.0, f"{figures['version']} {verdict}")
    return noted if training.round == record.number else record


def _train_if_due(project: Project, record: RoundRecord) -> None:
    """Start a training unless one runs (of any project: they would share the core that people's clicks need),
    this round had its own, or too little was finished since the last.
    """
    if any(isinstance(v, ClickTraining) and v.figures is None for v in project.memo.values()):
        return
    figures = record.figures.get("clicks", {})
    if figures.get("trained") == record.digest and (
        figures.get("failed") or not is_outdated(project.paths.clicks / figures.get("version", "none"))
    ):
        return
    reason = training_reason(project, record)
    if reason:
        project.report("clicks", 0.0, f"training a click network: {reason}")
        project.memo["click training", project.id] = ClickTraining(project, record)


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
