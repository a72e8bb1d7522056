"""Review: one look at the questions of a round: pull answers, decide, ask what is missing.

``review`` is a pure consequence of the stored answers: the policy is called with the log of verdicts, its
decisions replace those of the last look, and whatever it wants to know and was not asked yet becomes review
tasks. It may run after every answer, twice, or after a kill: the result is the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import delete, select

from clustering.answers import AUDIT, Action, PolicyStep, SearchPolicy
from clustering.propagation import Propagation, propagate
from clustering.search import make_policy
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import Verdict, VerdictTable, write_verdicts
from ml_backend.errors import BadImage, BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.review.answers import pull_answers, review_project_of
from sync.review.instructions import refresh_instructions
from sync.review.questions import ask, gold_questions, hidden_repeats, new_questions, repeat_questions, spread
from sync.review.review_project import FORMS, Question
from sync.review.verdicts import LabelLog, ReviewLog, read_review_log
from sync.rounds.cluster import LabelPool, load_label_pools
from sync.rounds.progress import Memo, Progress
from sync.rounds.round_records import finish_step, update_round
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, DecisionRecord, QuestionRecord, RoundRecord
from sync.studio.protocol import StudioClient

__all__ = ["ReviewReport", "review"]

_log = logging.getLogger(__name__)
_EXPERT_ROWS = 500
"""questions listed for an expert; all are counted"""


@dataclass(frozen=True, slots=True)
class ReviewReport:
    """State of the review after one look.

    ``asked`` questions so far (gold and repeats included), ``answered`` of them, ``open`` without an answer;
    ``accepted`` masks by decision or own verdict, ``verified`` of them by own verdict; ``new`` just asked.
    """

    asked: int
    answered: int
    open: int
    new: int
    accepted: int
    rejected: int
    verified: int
    done: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What one look at one label gave."""

    pool: LabelPool
    log: LabelLog
    step: PolicyStep
    propagation: Propagation


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
) -> ReviewReport:
    """Take one look at the review of a clustered round."""
    started = time.monotonic()
    pull_answers(db, review_studio, settings, progress)
    pools = [pool for pool in load_label_pools(db, paths, memo, record) if len(pool)]
    _withdraw_older(db, review_studio, progress, record.number)
    refresh_instructions(db, review_studio, config, settings, paths, images, progress, record.number)
    log, looks, wanted = _decide(db, settings, paths, progress, record, pools)
    verdicts = _store_decisions(db, paths, record, looks)
    asked = _ask(db, review_studio, config, settings, images, progress, wanted)
    refresh_instructions(db, review_studio, config, settings, paths, images, progress, record.number)
    shown = [question for question in log.questions if question.review_task_id is not None]
    answered = sum(question.key in log.answered for question in shown)
    is_open = len(shown) - answered
    done = not asked and not is_open
    report = ReviewReport(
        asked=len(shown) + asked,
        answered=answered,
        open=is_open + asked,
        new=asked,
        accepted=sum(v.verdict > 0 for v in verdicts.rows.values()),
        rejected=sum(v.verdict < 0 for v in verdicts.rows.values()),
        verified=sum(v.verdict > 0 and v.verified for v in verdicts.rows.values()),
        done=done,
    )
    _note(db, settings, paths, progress, record, report, log, looks, time.monotonic() - started)
    return report


def _decide(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    record: RoundRecord,
    pools: Sequence[LabelPool],
) -> tuple[ReviewLog, list[_Look], list[Question]]:
    """Look at every label; questions about masks that are known already answer themselves."""
    policy = _policy(settings)
    while True:
        log = read_review_log(db, settings, record.number, pools)
        if _forget_unanswered(db, log):
            continue
        shown = sum(question.review_task_id is not None for question in log.questions)
        budget = max(0, settings.question_budget - shown)
        looks: list[_Look] = []
        wanted: list[Question] = []
        for pool in pools:
            progress.at("review.label")
            look, questions = _look(db, settings, paths, record, policy, pool, log, budget - len(wanted))
            looks.append(look)
            wanted += questions
        silent, shown_now = _silent(pools, log, wanted)
        if silent:
            with db.write() as session:
                session.add_all(QuestionRecord(**asdict(q), review_task_id=None) for q in silent)
        if not any(_row(pools, question) in log.known for question in silent):
            return log, looks, shown_now


def _silent(
    pools: Sequence[LabelPool], log: ReviewLog, wanted: Sequence[Question]
) -> tuple[list[Question], list[Question]]:
    """Questions nobody must see, since their mask is known or shown for another sample; and the rest."""
    shown = {(q.label, q.instance) for q in log.questions if q.review_task_id is not None}
    silent: list[Question] = []
    rest: list[Question] = []
    for question in wanted:
        row = _row(pools, question)
        name = (question.label, question.instance)
        if question.repeat == 0 and row is not None and (row in log.known or name in shown):
            silent.append(question)
        else:
            rest.append(question)
            shown.add(name)
    return silent, rest


def _row(pools: Sequence[LabelPool], question: Question) -> tuple[str, int] | None:
    """(label, row) of the question's mask; None for gold, which is in no pool."""
    pool = next(pool for pool in pools if pool.label == question.label)
    is_there = str(pool.table.key[question.item]) == question.instance
    return (question.label, question.item) if is_there else None


def _forget_unanswered(db: ProjectStore, log: ReviewLog) -> bool:
    """Forget questions without a review task whose mask is not known any more; True if there were any."""
    shown = {(q.label, q.instance) for q in log.questions if q.review_task_id is not None}
    gone = [
        q.id
        for q in log.questions
        if q.review_task_id is None and q.key not in log.answered and (q.label, q.instance) not in shown
    ]
    if gone:
        with db.write() as session:
            for start in range(0, len(gone), 500):
                ids = gone[start : start + 500]
                session.execute(delete(QuestionRecord).where(QuestionRecord.id.in_(ids)))
    return bool(gone)


def _policy(settings: Settings) -> SearchPolicy:
    try:
        return make_policy(settings.policy, **settings.policy_options)
    except (ValueError, TypeError) as error:
        raise BadInput(str(error), field="settings.policy", hint="See GROUNDSWELL_POLICY_OPTIONS") from error


def _look(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    policy: SearchPolicy,
    pool: LabelPool,
    log: ReviewLog,
    budget: int,
) -> tuple[_Look, list[Question]]:
    mine = log.labels[pool.label]
    known = [question for question in log.questions if question.label == pool.label]
    is_open = sum(question.key not in log.answered for question in known)
    room = max(0, min(settings.question_batch - is_open, budget))
    # the policy names open questions again: they are part of what it may ask
    step = policy.step(
        pool.tree,
        pool.pool,
        mine.log,
        budget=settings.question_batch if room else 0,
        seed=settings.seed,
    )
    questions = repeat_questions(db, record.number, pool, mine.again, known, log.answered)[:room]
    fresh = new_questions(db, settings, record.number, pool, step.questions, known)
    questions += fresh[: room - len(questions)]
    hidden = hidden_repeats(db, settings, record.number, pool, len(questions), known, log.answered)
    gold = gold_questions(db, settings, paths, record.number, pool, questions, known)
    mixed = spread(questions, [*hidden, *gold], settings.seed)
    return _Look(pool, mine, step, propagate(step, mine.log)), mixed


def _ask(
    db: ProjectStore,
    review_studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    questions: Sequence[Question],
) -> int:
    """Ask what can be shown; a picture that has gone meanwhile costs its own questions only."""
    try:
        return ask(db, review_studio, config, settings, images, progress, questions)
    except BadImage as error:
        _log.warning("project %s: %s; asking one by one", db.id, error)
    asked = 0
    for question in questions:
        try:
            asked += ask(db, review_studio, config, settings, images, progress, [question])
        except BadImage as error:
            _log.warning("project %s: question %s left out: %s", db.id, question.key, error)
    return asked


def _store_decisions(
    db: ProjectStore, paths: ProjectPaths, record: RoundRecord, looks: Sequence[_Look]
) -> VerdictTable:
    """Replace decisions and verdicts of the round by those of this look."""
    rows = [row for look in looks for row in _verdict_rows(look)]
    verdicts = write_verdicts(paths.round(record.number), rows, guard=db.write)
    with db.write() as session:
        session.execute(
            delete(DecisionRecord).where(
                DecisionRecord.project_id == db.id, DecisionRecord.round == record.number
            )
        )
        for look in looks:
            session.add_all(_decision_rows(db.id, record.number, look))
    return verdicts


def _verdict_rows(look: _Look) -> list[Verdict]:
    done, decisions = look.propagation, look.propagation.decisions
    rows = []
    for item in np.flatnonzero(done.label).tolist():
        at = int(done.decision[item])
        by_decision = at >= 0
        rows.append(
            Verdict(
                key=str(look.pool.table.key[item]),
                label=look.pool.label,
                verdict=int(done.label[item]),
                verified=bool(done.verified[item]),
                decision=at,
                cluster=int(decisions.cluster[at]) if by_decision else -1,
                lower=float(decisions.lower[at]) if by_decision else float("nan"),
                upper=float(decisions.upper[at]) if by_decision else float("nan"),
                confidence=float(decisions.confidence[at]) if by_decision else float("nan"),
                test=decisions.test[at] if by_decision else "verdict",
            )
        )
    return rows


def _decision_rows(project_id: int, number: int, look: _Look) -> list[DecisionRecord]:
    decisions, tree = look.step.decisions, look.pool.tree
    members = np.bincount(look.step.decision[look.step.decision >= 0], minlength=len(decisions))
    rows = []
    for i in range(len(decisions)):
        cluster = int(decisions.cluster[i])
        rows.append(
            DecisionRecord(
                project_id=project_id,
                round=number,
                label=look.pool.label,
                number=i,
                cluster=cluster,
                action=Action(int(decisions.action[i])).name.lower(),
                members=int(tree.size[cluster]) if cluster >= 0 else int(members[i]),
                asked=int(decisions.asked[i]),
                yes=int(decisions.yes[i]),
                lower=float(decisions.lower[i]),
                upper=float(decisions.upper[i]),
                confidence=float(decisions.confidence[i]),
                test=decisions.test[i],
            )
        )
    return rows


def _withdraw_older(db: ProjectStore, review_studio: StudioClient, progress: Progress, number: int) -> None:
    """Delete review tasks of earlier rounds that nobody answered: their answers would teach nothing new."""
    answered = select(AnswerRecord.review_task_id).where(AnswerRecord.project_id == db.id)
    query = select(QuestionRecord.review_task_id, QuestionRecord.form).where(
        QuestionRecord.project_id == db.id,
        QuestionRecord.round < number,
        QuestionRecord.review_task_id.is_not(None),
        QuestionRecord.review_task_id.not_in(answered),
    )
    with db.read() as session:
        stale = sorted({(int(form), int(task)) for task, form in session.execute(query) if task})
    for form_number, form in enumerate(FORMS):
        tasks = [task for number_, task in stale if number_ == form_number]
        review_id = review_project_of(db, form)
        if not tasks or review_id is None:
            continue
        progress.at("review.withdraw")
        review_studio.delete_tasks(review_id, tasks)
        with db.write() as session:
            for start in range(0, len(tasks), 500):
                session.execute(
                    delete(QuestionRecord).where(
                        QuestionRecord.project_id == db.id,
                        QuestionRecord.review_task_id.in_(tasks[start : start + 500]),
                    )
                )


def _expert_questions(
    db: ProjectStore, settings: Settings, log: ReviewLog, looks: Sequence[_Look]
) -> list[dict[str, Any]]:
    """Where an expert finds the questions that used up their workers: the last review task of each."""
    newest: dict[tuple[str, str], QuestionRecord] = {}
    for question in log.questions:
        if question.review_task_id is not None:
            newest[question.label, question.instance] = question
    rows = []
    for look in looks:
        for row in look.log.expert.tolist():
            found = newest.get((look.pool.label, str(look.pool.table.key[row])))
            if found is None:
                continue  # answered in an earlier round only
            form = FORMS[found.form]
            server = (settings.review_url or settings.studio_url).rstrip("/")
            task = found.review_task_id
            rows.append(
                {
                    "label": found.label,
                    "task": found.task_id,
                    "form": form,
                    "review_task": task,
                    "url": f"{server}/projects/{review_project_of(db, form)}/data?task={task}",
                }
            )
    return rows[:_EXPERT_ROWS]


def _audits(look: _Look) -> list[dict[str, Any]]:
    """The final audits of a label: how many accepted masks were looked at, the interval of their purity."""
    decisions = look.step.decisions
    return [
        {
            "label": look.pool.label,
            "asked": int(decisions.asked[i]),
            "good": int(decisions.yes[i]),
            "lower": round(float(decisions.lower[i]), 4),
            "upper": round(float(decisions.upper[i]), 4),
            "confidence": float(decisions.confidence[i]),
        }
        for i, test in enumerate(decisions.test)
        if test == AUDIT
    ]


def _note(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    record: RoundRecord,
    report: ReviewReport,
    log: ReviewLog,
    looks: Sequence[_Look],
    seconds: float,
) -> None:
    before = record.figures.get("review", {})
    figures: dict[str, Any] = {
        "asked": report.asked,
        "answered": report.answered,
        "accepted": report.accepted,
        "rejected": report.rejected,
        "verified": report.verified,
        "carried": len(log.carried),
        "workers": list(log.workers),
        "expert_queue": sum(len(look.log.expert) for look in looks),
        "expert": _expert_questions(db, settings, log, looks),
        "audits": [row for look in looks for row in _audits(look)],
        "masks_per_question": round(report.accepted / report.answered, 3) if report.answered else None,
        "policy": settings.policy,
        "done": report.done,
    }
    state = {name: before.get(name) for name in figures}
    progress.report(
        "review",
        report.answered / max(report.asked, 1),
        f"{report.answered} of {report.asked} questions answered, {report.accepted} masks accepted",
    )
    if state != figures or report.done != record.review_done:
        figures["seconds"] = round(float(before.get("seconds", 0.0)) + seconds, 3)
        finish_step(db, paths, record.number, "review", figures)
        if report.done != record.review_done:
            update_round(db, paths, record.number, review_done=report.done)
