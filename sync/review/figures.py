"""Figures: the report of one look at a review, for the worker, the store and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from clustering.answers import AUDIT
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import VerdictTable
from sync.review.answers import review_project_of
from sync.review.decide import LabelOutcome, Plan
from sync.review.question import FORMS
from sync.review.verdicts import ReviewLog
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
    their own.
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


def review_report(plan: Plan, verdicts: VerdictTable, *, asked_now: int, asked_before: int) -> ReviewReport:
    """The report after a plan was carried out.

    ``asked_now`` questions were asked after the plan was made, ``asked_before`` earlier in the same look.
    """
    log = plan.log
    shown = {question.key for question in log.questions if question.review_task_id is not None}
    answered = len(shown & log.answered)
    skipped = len(shown & log.skipped)
    is_open = len(shown) - answered - len(shown & (log.skipped - log.waiting))
    return ReviewReport(
        asked=len(shown) + asked_now,
        answered=answered,
        open=is_open + asked_now,
        new=asked_now + asked_before,
        accepted=sum(v.verdict > 0 for v in verdicts.rows.values()),
        rejected=sum(v.verdict < 0 for v in verdicts.rows.values()),
        verified=sum(v.verdict > 0 and v.verified for v in verdicts.rows.values()),
        done=not asked_now and not is_open,
        skipped=skipped,
    )


def _expert_questions(
    db: ProjectStore, settings: Settings, log: ReviewLog, outcomes: Sequence[LabelOutcome]
) -> list[dict[str, Any]]:
    """Where an expert finds questions that no further worker may answer: the last review task of each."""
    newest: dict[tuple[str, str], QuestionRecord] = {}
    for question in log.questions:
        if question.review_task_id is not None:
            newest[question.label, question.instance] = question
    rows = []
    for outcome in outcomes:
        for row in outcome.log.expert.tolist():
            found = newest.get((outcome.pool.label, str(outcome.pool.table.key[row])))
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


def _audits(outcome: LabelOutcome) -> list[dict[str, Any]]:
    """The final audits of a label: how many accepted masks were looked at, and the interval of purity."""
    decisions = outcome.step.decisions
    return [
        {
            "label": outcome.pool.label,
            "asked": int(decisions.asked[i]),
            "good": int(decisions.yes[i]),
            "lower": round(float(decisions.lower[i]), 4),
            "upper": round(float(decisions.upper[i]), 4),
            "confidence": float(decisions.confidence[i]),
        }
        for i, test in enumerate(decisions.test)
        if test == AUDIT
    ]


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
    server = (settings.review_url or settings.studio_url).rstrip("/")
    return f"{server}/projects/{review_project_of(db, FORMS[form])}/data?task={task}"


def note_figures(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    record: RoundRecord,
    report: ReviewReport,
    plan: Plan,
    seconds: float,
) -> None:
    """Keep the figures of a look in the round's row, when they changed."""
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
        "workers": list(log.workers),
        "expert_queue": sum(len(outcome.log.expert) for outcome in plan.outcomes),
        "expert": _expert_questions(db, settings, log, plan.outcomes),
        "unreadable": _unreadable(db, settings),
        "audits": [row for outcome in plan.outcomes for row in _audits(outcome)],
        "masks_per_question": round(report.accepted / report.answered, 3) if report.answered else None,
        "policy": settings.policy,
        "done": report.done,
    }
    state = {name: before.get(name) for name in figures}
    tell_progress(progress, report)
    if state != figures or report.done != record.review_done:
        figures["seconds"] = round(float(before.get("seconds", 0.0)) + seconds, 3)
        finish_step(db, paths, record.number, "review", figures)
        if report.done != record.review_done:
            update_round(db, paths, record.number, review_done=report.done)


def tell_progress(progress: Progress, report: ReviewReport) -> None:
    """One line for the terminal."""
    progress.report(
        "review",
        report.answered / max(report.asked, 1),
        f"{report.answered} of {report.asked} questions answered, {report.accepted} masks accepted",
    )
