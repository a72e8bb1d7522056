"""Figures: the report of one look at a review, for the worker, the store and people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from clustering.answers import Forecast
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import VerdictTable
from sync.review.answers import review_project_of
from sync.review.decide import Plan
from sync.review.nouns import plural
from sync.review.promise import (
    audit_figures,
    forecast_figures,
    forecast_text,
    label_figures,
    promise_figures,
)
from sync.review.question import FORMS
from sync.review.verdicts import ReviewLog, offsets
from sync.rounds.progress import Progress
from sync.rounds.round_records import finish_step, update_round
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import QuestionRecord, ReviewTaskRecord, RoundRecord

__all__ = ["ReviewReport", "note_figures", "review_report", "tell_progress"]

_EXPERT_ROWS = 500
"""questions listed for an expert; all are counted"""


@dataclass(frozen=True, slots=True)
class ReviewReport:
    """State of the review after one look.

    Questions: ``asked`` so far (gold and repeats included); ``answered`` of these; ``open``: not answered
    yet, but somebody still can; ``skipped``: by somebody, and answered by nobody; ``new``: asked just now.
    Masks: ``accepted`` by a decision or a verdict of their own; ``verified``: those of them with a verdict of
    their own. ``forecast``: what further answers are expected to bring, None where the policy cannot tell.
    """

    asked: int
    answered: int
    open: int
    new: int
    accepted: int
    rejected: int
    verified: int
    done: bool
    skipped: int = 0
    forecast: Forecast | None = None


def review_report(
    plan: Plan, verdicts: VerdictTable, *, asked_now: int, asked_before: int, may_ask: bool = True
) -> ReviewReport:
    """The report after a plan was carried out.

    ``asked_now`` questions were asked after the plan was made, ``asked_before`` earlier in the same look.
    Without ``may_ask`` (a pause) a review is done only when the policy wants no more.
    """
    log = plan.log
    shown = {question.key for question in log.questions if question.review_task_id is not None}
    answered = len(shown & log.answered)
    skipped = len(shown & log.skipped)
    is_open = len(shown) - answered - len(shown & (log.skipped - log.waiting))
    done = not asked_now and not is_open and (may_ask or plan.outcome.step.done)
    forecast = plan.outcome.step.forecast
    if done and forecast is not None:  # the policy may want more, but nobody is left who may answer
        forecast = Forecast.nothing()
    return ReviewReport(
        asked=len(shown) + asked_now,
        answered=answered,
        open=is_open + asked_now,
        new=asked_now + asked_before,
        accepted=sum(v.verdict > 0 for v in verdicts.rows.values()),
        rejected=sum(v.verdict < 0 for v in verdicts.rows.values()),
        verified=sum(v.verdict > 0 and v.verified for v in verdicts.rows.values()),
        done=done,
        skipped=skipped,
        forecast=forecast,
    )


def _expert_questions(db: ProjectStore, settings: Settings, plan: Plan) -> list[dict[str, Any]]:
    """Where an expert finds questions that no further worker may answer: the last review task of each."""
    newest: dict[tuple[str, str], QuestionRecord] = {}
    for question in plan.log.questions:
        if question.review_task_id is not None:
            newest[question.label, question.instance] = question
    pools, first = plan.outcome.pools, offsets(plan.outcome.pools)
    rows = []
    for item in plan.log.expert.tolist():
        number = int(np.searchsorted(first, item, side="right")) - 1
        found = newest.get((pools[number].label, str(pools[number].table.key[item - first[number]])))
        if found is None:
            continue  # answered in an earlier round only
        rows.append(
            {
                "label": found.label,
                "task": found.task_id,
                "form": FORMS[found.form],
                "review_task": found.review_task_id,
                "url": _address(db, settings, found.form, found.review_task_id),
            }
        )
    return rows[:_EXPERT_ROWS]


def _unreadable(db: ProjectStore, settings: Settings) -> list[dict[str, Any]]:
    """Review tasks whose questions cannot be read: their answers do not count."""
    query = select(ReviewTaskRecord).where(
        ReviewTaskRecord.project_id == db.id, ReviewTaskRecord.broken != ""
    )
    with db.read() as session:
        rows = list(session.scalars(query.order_by(ReviewTaskRecord.id)))
    return [
        {"review_task": row.id, "reason": row.broken, "url": _address(db, settings, row.form, row.id)}
        for row in rows
    ]


def _address(db: ProjectStore, settings: Settings, form: int, task: int | None) -> str:
    """Where a browser shows a review task."""
    server = settings.shown_review_url
    return f"{server}/projects/{review_project_of(db, FORMS[form])}/data?task={task}"


def note_figures(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    report: ReviewReport,
    plan: Plan,
    found: dict[str, Any] | None,
    by_label: list[dict[str, Any]],
    seconds: float,
) -> None:
    """Keep the figures of a look in the round's row, when they changed.

    ``found`` is the share of objects found, see ``completeness_figures``; ``by_label`` see ``label_reviews``.
    """
    log: ReviewLog = plan.log
    before = record.figures.get("review", {})
    figures: dict[str, Any] = {
        "asked": report.asked,
        "answered": report.answered,
        "skipped": report.skipped,
        "accepted": report.accepted,
        "rejected": report.rejected,
        "verified": report.verified,
        "carried": len(log.carried),
        "nearly_carried": len(log.nearly),
        "workers": list(log.workers),
        "expert_queue": len(log.expert),
        "expert": _expert_questions(db, settings, plan),
        "unreadable": _unreadable(db, settings),
        "audits": audit_figures(plan.outcome),
        "promise": promise_figures(plan),
        "forecast": forecast_figures(report.forecast),
        "labels": label_figures(plan.outcome),
        "found": found,
        "by_label": by_label,
        "masks_per_question": round(report.accepted / report.answered, 3) if report.answered else None,
        "policy": plan.outcome.policy.name,
        "done": report.done,
    }
    state = {name: before.get(name) for name in figures}
    if state != figures or report.done != record.review_done:
        figures["seconds"] = round(float(before.get("seconds", 0.0)) + seconds, 3)
        finish_step(db, paths, record.number, "review", figures)
        if report.done != record.review_done:
            update_round(db, paths, record.number, review_done=report.done)


def tell_progress(progress: Progress, report: ReviewReport, noun: str) -> None:
    """One line for the terminal; ``noun`` is what one instance is called."""
    text = f"{report.answered} of {report.asked} questions answered, {plural(report.accepted, noun)} accepted"
    if coming := forecast_text(report.forecast, noun):
        text += f"; {coming}"
    progress.report("review", report.answered / max(report.asked, 1), text)
