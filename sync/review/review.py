"""Review: one look at the questions of a round. Pull answers, decide, ask the questions that are missing.

The result of a look depends on the stored answers alone. The policy is called with the verdicts, and its
decisions replace those of the last look. Questions that it wants answered and that were not asked yet become
review tasks. A look may run after every answer, twice, or after a kill: the result is the same. If nothing
changed, a look ends after pulling the answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.review.answers import pull_answers, set_overlap
from sync.review.ask import ask
from sync.review.by_label import label_reviews
from sync.review.completeness_figures import found_figures
from sync.review.decide import decide
from sync.review.decisions import store_decisions
from sync.review.figures import ReviewReport, note_figures, review_report, tell_progress
from sync.review.fingerprint import review_fingerprint
from sync.review.instructions import refresh_instructions
from sync.review.nouns import noun_of
from sync.review.open_tasks import tidy_open_tasks
from sync.review.outlook import tell_outlook
from sync.review.settled_classes import pictures_of_other_class
from sync.rounds.cluster import load_label_pools
from sync.rounds.progress import Memo, Progress
from sync.rounds.task_queries import note_image_errors
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord
from sync.studio.protocol import StudioClient

__all__ = ["ReviewReport", "review"]


@dataclass(frozen=True, slots=True)
class _LastLook:
    """A look that changed nothing: no further look is needed while the fingerprint stays the same."""

    fingerprint: str
    report: ReviewReport


def review(
    db: ProjectStore,
    review_studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
    *,
    may_ask: bool = True,
) -> ReviewReport:
    """Take one look at the review of a clustered round.

    Without ``may_ask`` answers count as always, but no new question is asked.

    Raises BadInput when policy or options are wrong, StudioError when Label Studio refuses something.
    """
    started = time.monotonic()
    set_overlap(db, review_studio, settings)
    pull_answers(db, review_studio, settings, progress)
    tidy_open_tasks(db, review_studio, settings, progress, memo, record.number)
    refresh_instructions(db, review_studio, config, settings, paths, images, progress, record.number)
    before = _fingerprint(db, config, settings, memo, record, may_ask)
    name = ("review", db.id)
    last = memo.get(name)
    if isinstance(last, _LastLook) and last.fingerprint == before and _is_kept(paths, record, last.report):
        tell_progress(progress, last.report, noun_of(config.wanted))
        return last.report
    pools = [pool for pool in load_label_pools(db, paths, memo, record) if len(pool)]
    asking = settings
    if not may_ask or {pool.label for pool in pools} - set(config.labels):
        # where somebody changed the labels, a new training is due as soon as there is something to train on.
        # Until then nothing more is asked; what is open stays open, since the edit may be taken back
        asking = settings.model_copy(update={"question_budget": 0})
    asked_before = 0
    while True:
        plan = decide(db, asking, paths, progress, memo, record, pools)
        asked = ask(db, review_studio, config, settings, images, progress, memo, plan.wanted)
        if not asked.unreadable:
            break
        # masks on these pictures stay undecided; questions about others take their place
        note_image_errors(db, asked.unreadable)
        asked_before += asked.count
    of_other_class = pictures_of_other_class(plan, settings, config.wanted, paths, record.number)
    verdicts = store_decisions(db, paths, record, plan.outcome, of_other_class)
    if asked.count or asked_before:  # there may be a review project now that was not there before
        refresh_instructions(db, review_studio, config, settings, paths, images, progress, record.number)
    report = review_report(plan, verdicts, asked_now=asked.count, asked_before=asked_before, may_ask=may_ask)
    found = found_figures(db, settings, paths, memo, record, plan)
    by_label = label_reviews(plan, settings, config.labels, may_ask=may_ask)
    spent_s = time.monotonic() - started
    tell_progress(progress, report, noun_of(config.wanted))
    note_figures(db, settings, paths, record, report, plan, found, by_label, spent_s)
    tell_outlook(db, review_studio, settings, memo, report.forecast)
    if _fingerprint(db, config, settings, memo, record, may_ask) == before:
        memo[name] = _LastLook(before, report)
    return report


def _fingerprint(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    memo: Memo,
    record: RoundRecord,
    may_ask: bool,
) -> str:
    return review_fingerprint(db, config, settings, memo, record) + ("" if may_ask else " paused")


def _is_kept(paths: ProjectPaths, record: RoundRecord, report: ReviewReport) -> bool:
    """Whether what the last look wrote, in the store and on disk, is still there."""
    return (
        record.review_done == report.done
        and "review" in record.figures
        and (paths.round(record.number) / "verdicts.parquet").exists()
    )
