"""Decide: run the search policy on all labels of a round, and work out which questions to ask next.

Nothing here talks to Label Studio. The only rows written are *silent* questions: nobody has to see them, for
example because what is known of their mask already answers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete

from clustering.answers import PolicyStep, Questions, SearchPolicy, Stream
from clustering.project_pool import ProjectPool
from clustering.propagation import Propagation, propagate
from clustering.search import HARVEST_PHASE
from clustering.search.certified import Certified
from ml_backend.artifacts.paths import ProjectPaths
from sync.review.question import Question
from sync.review.questions import (
    gold_questions,
    hidden_repeats,
    new_questions,
    repeat_questions,
    spread,
    without_lone_cards,
)
from sync.review.verdicts import ReviewLog, offsets, read_review_log
from sync.rounds.cluster import LabelPool
from sync.rounds.known_masks import KnownMasks, load_known_masks, load_lessons
from sync.rounds.policies import build_policy, gold_is_counted
from sync.rounds.progress import Memo, Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import QuestionRecord, RoundRecord

__all__ = ["Outcome", "Plan", "asked_again", "certificate_seed", "decide", "split_silent"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the policy says: its step, and the labels it gives to all masks of all labels.

    ``policy`` is the one that was asked.
    """

    pools: Sequence[LabelPool]
    policy: SearchPolicy
    step: PolicyStep
    propagation: Propagation


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The outcome of a look at the answers of a round, and the questions to ask now."""

    log: ReviewLog
    outcome: Outcome
    wanted: Sequence[Question]


def decide(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
    pools: Sequence[LabelPool],
) -> Plan:
    """Run the policy on the stored answers. Raises BadInput when policy or options are wrong."""
    kept = _kept_policy(db, settings, memo)
    project = _project(db, paths, memo, record, pools)
    known_masks = load_known_masks(db, paths, memo, record, [pool.label for pool in pools])
    while True:
        log = read_review_log(db, settings, record.number, pools, lessons=project.lessons)
        if _forget_unanswered(db, log):
            continue
        progress.at("review.policy")
        policy = _with_gold(kept, settings, log)
        room = _room(settings, log)
        step = policy.step(
            project,
            log.log,
            # the policy names open questions again: they are part of what it may ask
            budget=settings.question_batch if room else 0,
            seed=certificate_seed(settings, record.number, log.certificate.number),
            certificate=log.certificate.number,
        )
        wanted = _wanted(db, settings, paths, record, pools, known_masks, log, step, room)
        silent, seen = split_silent(pools, log, wanted)
        if silent:
            with db.write() as session:
                session.add_all(QuestionRecord(**asdict(q), review_task_id=None) for q in silent)
        settled = log.known | log.cannot_be_shown
        if not any(_row(pools, question) in settled for question in silent):
            step = _with_experts(step, log)
            return Plan(log, Outcome(pools, policy, step, propagate(step, log.log)), seen)


def _kept_policy(db: ProjectStore, settings: Settings, memo: Memo) -> SearchPolicy:
    """The policy of these settings; the same object at the next look, since it keeps what it learnt."""
    made = build_policy(settings)
    name = ("policy", db.id)
    found = memo.get(name)
    now = (settings.policy, repr(sorted(settings.policy_options.items())), gold_is_counted(settings))
    if isinstance(found, tuple) and found[0] == now:
        policy: SearchPolicy = found[1]
        return policy
    memo[name] = (now, made)
    return made


def _with_gold(policy: SearchPolicy, settings: Settings, log: ReviewLog) -> SearchPolicy:
    """The policy with the gold answers of now, where it learns from them how people err."""
    if not isinstance(policy, Certified) or not gold_is_counted(settings):
        return policy
    counted = copy(policy)  # keeps the fitted verifiers; plans do not depend on the gold
    counted.gold = log.gold
    return counted


def _project(
    db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord, pools: Sequence[LabelPool]
) -> ProjectPool:
    """The pools of the round as one; the same object while its parts are."""
    lessons = load_lessons(db, paths, memo, record, [pool.label for pool in pools])
    parts = (lessons, *pools)
    name = ("project pool", db.id)
    found = memo.get(name)
    if (
        isinstance(found, tuple)
        and len(found[0]) == len(parts)
        and all(old is new for old, new in zip(found[0], parts, strict=True))
    ):
        kept: ProjectPool = found[1]
        return kept
    project = ProjectPool([pool.pool for pool in pools], [pool.tree for pool in pools], lessons=lessons)
    memo[name] = (parts, project)
    return project


def certificate_seed(settings: Settings, round_number: int, certificate: int) -> int:
    """Every certificate draws anew: its sample must not depend on what earlier ones showed."""
    entropy = [settings.seed, round_number, certificate]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _room(settings: Settings, log: ReviewLog) -> int:
    """How many questions may be asked now."""
    # skipped questions may wait for ever, so they do not count towards the limit of open questions
    done = log.answered | log.skipped
    # a mask that is shown for one sample and drawn for another is open once
    is_open = {(question.label, question.instance) for question in log.questions if question.key not in done}
    room = settings.question_batch - len(is_open)
    if settings.question_budget is not None:
        shown = sum(question.review_task_id is not None for question in log.questions)
        room = min(room, settings.question_budget - shown)
    return max(0, room)


def _wanted(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    pools: Sequence[LabelPool],
    known_masks: KnownMasks | None,
    log: ReviewLog,
    step: PolicyStep,
    room: int,
) -> list[Question]:
    """The questions to ask now, with gold and repeats among them."""
    again, fresh = asked_again(log, step.questions)
    questions: list[Question] = []
    first = offsets(pools)
    for number, pool in enumerate(pools):
        mine = again[(again >= first[number]) & (again < first[number + 1])] - first[number]
        known = [question for question in log.questions if question.label == pool.label]
        questions += repeat_questions(db, record.number, log.certificate, pool, mine, known, log.answered)
    questions = questions[:room]
    new = new_questions(
        db, settings, record.number, log.certificate, pools, step.questions.take(fresh), log.questions
    )
    new = new[: room - len(questions)]
    questions += without_lone_cards(new) if settings.review_form == "auto" else new
    others: list[Question] = []
    for number, pool in enumerate(pools):
        like = [question for question in questions if question.label == pool.label]
        known = [question for question in log.questions if question.label == pool.label]
        hidden = hidden_repeats(
            db, settings, record.number, log.certificate, pool, len(like), known, log.answered
        )
        others += [q for q in hidden if int(first[number]) + q.item not in log.cannot_be_shown]
        others += gold_questions(db, settings, paths, record.number, pool, like, known, known_masks)
    return spread(questions, others, settings.seed)


def asked_again(log: ReviewLog, asked: Questions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Masks that need the answer of one more person, and places of the questions that are new.

    A policy that asks about a mask again in the last phase wants another person's answer; what is known of
    the mask answers all its other questions.
    """
    known = np.isin(asked.item, np.array(sorted(log.known), np.int64))
    known &= (asked.stream == Stream.HARVEST) & (asked.phase == HARVEST_PHASE)
    again = np.unique(np.concatenate([log.again, asked.item[known]]))
    closed = np.array(sorted(log.cannot_be_shown | (log.spent - set(log.again.tolist()))), np.int64)
    return again[~np.isin(again, closed)], np.flatnonzero(~known)


def _with_experts(step: PolicyStep, log: ReviewLog) -> PolicyStep:
    """What an expert said decides, also where the policy asks for more than one person's word."""
    if not log.decided:
        return step
    rows = np.array(list(log.decided), np.int64)
    label, decision = step.label.copy(), step.decision.copy()
    label[rows] = np.where(np.array(list(log.decided.values())) > 0.5, 1, -1)
    decision[rows] = -1
    return replace(step, label=label, decision=decision)


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


def _row(pools: Sequence[LabelPool], question: Question) -> int | None:
    """Row of the question's mask in the project's pool; None for gold, which is in no pool."""
    number = next(number for number, pool in enumerate(pools) if pool.label == question.label)
    is_there = str(pools[number].table.key[question.item]) == question.instance
    return int(offsets(pools)[number]) + question.item if is_there else None


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
