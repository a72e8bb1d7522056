"""Clicks: what the worker does so that annotators' clicks are quick and good.

Embeddings of the images that will be served next are computed ahead, and (option ``train_clicks``) a small
click network is trained on the project's own finished masks. This runs beside the worker's looks, when enough
tasks were finished since the last training. The network serves only while it beats the configured segmenter
on the test split. A failure of either never stops a round: it is noted and shown.
"""

from __future__ import annotations

from typing import Any

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import load_facts
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.clicks.serving.service import ClickService
from ml_backend.images.store import ImageStore
from sync.executor.choice import executor_of
from sync.rounds.click_embedding import embed_next
from sync.rounds.click_training import ClickTraining, click_lease, training_reason
from sync.rounds.progress import Memo, Progress
from sync.rounds.push import serving_order
from sync.rounds.round_records import finish_step
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["click_training", "prepare_clicks"]


def prepare_clicks(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
    *,
    is_new_order: bool,
) -> RoundRecord:
    """Train this project's click network and embed ahead, where the settings ask for it; safe to repeat.

    ``is_new_order`` says that tasks are served in another order since the last call. Returns at once while a
    click network is being trained: a later call notes the result.
    """
    record = _note_training(db, paths, progress, memo, record)
    figures: dict[str, Any] = dict(record.figures.get("clicks", {}))
    before = dict(figures)
    if settings.embed_ahead and (is_new_order or "embedded" not in figures):
        figures |= _embed(db, settings, paths, images, progress, memo, record)
    if figures != before:
        record = finish_step(db, paths, record.number, "clicks", figures)
    if settings.train_clicks:
        _train_if_due(db, settings, paths, images, progress, memo, record)
    return record


def click_training(db: ProjectStore, memo: Memo) -> ClickTraining | None:
    """The click network that this worker is training for the project, or has trained since its last look."""
    found = memo.get(("click training", db.id))
    return found if isinstance(found, ClickTraining) else None


def _note_training(
    db: ProjectStore, paths: ProjectPaths, progress: Progress, memo: Memo, record: RoundRecord
) -> RoundRecord:
    """Report how far this project's training is, or write down its result."""
    training = click_training(db, memo)
    if training is None:
        return record
    if training.figures is None:
        progress.report("clicks", min(training.share, 0.99), training.line)
        return record
    del memo["click training", db.id]
    if not training.figures:
        return record  # another worker took over
    figures = {"trained": training.digest, **training.figures}
    noted = finish_step(db, paths, training.round, "clicks", figures)
    if figures["failed"]:
        progress.report("clicks", 1.0, f"not trained: {figures['failed']}")
    else:
        verdict = "serves" if figures["serves"] else "does not beat the segmenter"
        progress.report("clicks", 1.0, f"{figures['version']} {verdict}")
    return noted if training.round == record.number else record


def _train_if_due(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> None:
    """Start a training, unless one runs for any project (two would take the core that people's clicks need),
    this round had its own, or too little was finished since the last.
    """
    if any(isinstance(v, ClickTraining) and v.figures is None for v in memo.values()):
        return
    figures = record.figures.get("clicks", {})
    if figures.get("trained") == record.digest and (
        figures.get("failed") or not is_outdated(paths.clicks / figures.get("version", "none"))
    ):
        return
    reason = training_reason(paths, record)
    lease = click_lease(db, settings)
    if not reason or not lease.acquire():
        return
    try:
        training = ClickTraining(db, settings, paths, images, record, lease)
    except BaseException:
        lease.release()
        raise
    progress.report("clicks", 0.0, f"training a click network: {reason}")
    memo["click training", db.id] = training


def _embed(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> dict[str, Any]:
    """Embed the tasks that are served next, until this many of them are there."""
    facts = load_facts(settings.data_dir, db.id)
    service = memo.get("clicks")
    if not isinstance(service, ClickService):
        service = memo["clicks"] = ClickService(settings, images)
    tasks = serving_order(db, paths, memo, record)[: settings.embed_ahead]
    executor = executor_of(settings, memo)
    report = embed_next(settings, images, progress, executor, service, facts, tasks)
    return {"embedded": report.encoded + report.present, "not_embedded": report.failed}
