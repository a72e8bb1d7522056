"""Decide: run the search policy on every label, and work out which questions to ask next.

Nothing here talks to Label Studio. The only rows written are *silent* questions: nobody has to see them, for
example because what is known of their mask already answers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sqlalchemy import delete

from clustering.answers import PolicyStep, SearchPolicy
from clustering.propagation import Propagation, propagate
from clustering.search import make_policy
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from sync.review.question import Question
from sync.review.questions import gold_questions, hidden_repeats, new_questions, repeat_questions, spread
from sync.review.verdicts import LabelLog, ReviewLog, read_review_log
from sync.rounds.cluster import LabelPool
from sync.rounds.progress import Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import QuestionRecord, RoundRecord

__all__ = ["LabelOutcome", "Plan", "decide", "split_silent"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelOutcome:
    """What the policy says about one label: its step, and the labels it gives to all masks of the pool."""

    pool: LabelPool
    log: LabelLog
    step: PolicyStep
    propagation: Propagation


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All labels of a round, and the questions to ask now."""

    log: ReviewLog
    outcomes: Sequence[LabelOutcome]
    wanted: Sequence[Question]


def decide(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    record: RoundRecord,
    pools: Sequence[LabelPool],
) -> Plan:
    """Run the policy on the stored answers. Raises BadInput when policy or options are wrong."""
    policy = _policy(settings)
    while True:
        log = read_review_log(db, settings, record.number, pools)
        if _forget_unanswered(db, log):
            continue
        shown = sum(question.review_task_id is not None for question in log.questions)
        budget = max(0, settings.question_budget - shown)
        outcomes: list[LabelOutcome] = []
        wanted: list[Question] = []
        for pool in pools:
            progress.at("review.label")
            outcome, questions = _label(db, settings, paths, record, policy, pool, log, budget - len(wanted))
            outcomes.append(outcome)
            wanted += questions
        silent, seen = split_silent(pools, log, wanted)
        if silent:
            with db.write() as session:
                session.add_all(QuestionRecord(**asdict(q), review_task_id=None) for q in silent)
        settled = log.known | log.cannot_be_shown
        if not any(_row(pools, question) in settled for question in silent):
            return Plan(log, outcomes, seen)


def split_silent(
    pools: Sequence[LabelPool], log: ReviewLog, wanted: Sequence[Question]
) -> tuple[list[Question], list[Question]]:
    """Split questions into silent ones, which nobody has to see, and the rest.

    A question is silent when its mask has a verdict, is shown already for another sample, or cannot be shown.
    """
    shown = {(q.label, q.instance) for q in log.questions if q.review_task_id is not None}
    settled = log.known | log.cannot_be_shown
    silent: list[Question] = []
    rest: list[Question] = []
    for question in wanted:
        row = _row(pools, question)
        name = (question.label, question.instance)
        if question.repeat == 0 and row is not None and (row in settled or name in shown):
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
    """Forget silent questions whose mask is no longer known; True if there were any."""
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


def _label(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    policy: SearchPolicy,
    pool: LabelPool,
    log: ReviewLog,
    budget: int,
) -> tuple[LabelOutcome, list[Question]]:
    mine = log.labels[pool.label]
    known = [question for question in log.questions if question.label == pool.label]
    # skipped questions may wait for ever, so they do not count towards the limit of open questions
    is_open = sum(question.key not in log.answered | log.skipped for question in known)
    room = max(0, min(settings.question_batch - is_open, budget))
    # the policy names open questions again: they are part of what it may ask
    step = policy.step(
        pool.tree,
        pool.pool,
        mine.log,
        budget=settings.question_batch if room else 0,
        seed=settings.seed,
    )
    lost = np.array([row for label, row in log.cannot_be_shown if label == pool.label], np.int64)
    again = mine.again[~np.isin(mine.again, lost)]
    questions = repeat_questions(db, record.number, pool, again, known, log.answered)[:room]
    fresh = new_questions(db, settings, record.number, pool, step.questions, known)
    questions += fresh[: room - len(questions)]
    hidden = [
        question
        for question in hidden_repeats(db, settings, record.number, pool, len(questions), known, log.answered)
        if (pool.label, question.item) not in log.cannot_be_shown
    ]
    gold = gold_questions(db, settings, paths, record.number, pool, questions, known)
    mixed = spread(questions, [*hidden, *gold], settings.seed)
    return LabelOutcome(pool, mine, step, propagate(step, mine.log)), mixed
