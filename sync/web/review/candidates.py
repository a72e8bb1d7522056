"""Which open review tasks a person may be given now.

Nobody gets a task twice, nor more people than ``review_overlap`` one task: answers on their way to Label
Studio and cards that others hold count too. A mask that needs another worker goes to no one who judged it
already; a hidden repeat goes to those who did, and to others only when nothing else is left for them.

For whom nothing else is left, there are the cards that others only hold ahead (``cards_held_ahead``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from sync.review.answers import SKIP
from sync.review.outbox import QUESTIONS
from sync.review.question import FORMS, HIDDEN
from sync.store.review_tables import CardRecord, OutboxRecord
from sync.store.tables import AnswerRecord, QuestionRecord, ReviewTaskRecord
from sync.web.review.sessions import Person

__all__ = ["OpenCard", "cards_held_ahead", "is_full", "open_cards", "parts", "same_label_runs"]

_WINDOW: Final = 40
"""among so many cards of the policy's order, those of one label may be brought together"""
_BOUND_VALUES: Final = 500


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question without its mask."""

    label: str
    instance: str
    repeat: int


@dataclass(frozen=True, slots=True)
class OpenCard:
    """A review task that a person may answer; ``labels`` and ``pictures`` in the order shown."""

    task_id: int
    form: str
    labels: tuple[str, ...]
    pictures: tuple[str, ...]
    is_hidden: bool = False
    is_held: bool = False
    """whether this person holds it already"""
    holders: tuple[str, ...] = ()
    """people who only hold it ahead, and from whom it would have to be taken"""

    @property
    def label(self) -> str:
        """The label of all its questions, "" where they differ."""
        return self.labels[0] if len(set(self.labels)) == 1 else ""


def parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """The ids in pieces that fit into one statement."""
    for start in range(0, len(ids), _BOUND_VALUES):
        yield ids[start : start + _BOUND_VALUES]


def open_cards(session: Session, person: Person, *, overlap: int, now: datetime, user: int) -> list[OpenCard]:
    """The tasks that this person may answer now, in the order in which they were asked.

    ``user`` is their number in Label Studio, ``overlap`` how many people answer one task.
    """
    return [card for card in _cards(session, person, overlap, now, user) if not card.holders]


def cards_held_ahead(
    session: Session, person: Person, *, overlap: int, now: datetime, user: int
) -> list[OpenCard]:
    """The tasks that this person could answer, were they not held ahead by others; those last asked first.

    A holder comes to these last.
    """
    return [card for card in _cards(session, person, overlap, now, user) if card.holders][::-1]


def is_full(
    session: Session, person: Person, task_id: int, *, overlap: int, now: datetime, user: int
) -> bool:
    """Whether as many other people answered a task as are wanted."""
    return _Taken(session, person, [task_id], user=user, now=now).answers(task_id) >= overlap


def _cards(session: Session, person: Person, overlap: int, now: datetime, user: int) -> list[OpenCard]:
    tasks = list(
        session.scalars(
            select(ReviewTaskRecord)
            .where(
                ReviewTaskRecord.project_id == person.project_id,
                ReviewTaskRecord.is_open.is_(True),
                ReviewTaskRecord.broken == "",
                ReviewTaskRecord.key != "",
            )
            .order_by(ReviewTaskRecord.form, ReviewTaskRecord.id)
        )
    )
    ids = [task.id for task in tasks]
    asked = _questions(session, person.project_id, ids)
    taken = _Taken(session, person, ids, user=user, now=now)
    judged = _judged(session, person, user, asked)
    found, late = [], []
    for task in tasks:
        questions = asked.get(task.id, {})
        shown = [str(instance) for instance, _ in task.pictures]
        if not shown or any(instance not in questions for instance in shown):
            continue  # not all of its questions are stored yet
        if taken.by_person(task.id):
            continue
        too_many = taken.count(task.id) + 1 - overlap
        ahead = taken.ahead(task.id)
        if too_many > len(ahead):
            continue
        rows = [questions[instance] for instance in shown]
        card = OpenCard(
            task_id=task.id,
            form=FORMS[task.form],
            labels=tuple(row.label for row in rows),
            pictures=tuple(shown),
            is_hidden=any(row.repeat >= HIDDEN for row in rows),
            is_held=task.id in taken.held,
            holders=tuple(ahead[: max(0, too_many)]),
        )
        knows = any((row.label, row.instance) in judged for row in rows)
        if card.is_hidden and not knows:
            late.append(card)
        elif knows and not card.is_hidden and any(row.repeat > 0 for row in rows):
            continue
        else:
            found.append(card)
    return found + late


def same_label_runs(cards: Sequence[OpenCard], label: str) -> list[OpenCard]:
    """The cards with those of one label together, ``label`` first; no card moves far from its place."""
    ordered: list[OpenCard] = []
    for start in range(0, len(cards), _WINDOW):
        window = cards[start : start + _WINDOW]
        first: dict[tuple[str, str], int] = {}
        for place, card in enumerate(window):
            first.setdefault((card.form, card.label), place)
        window = sorted(
            window,
            key=lambda c: (not c.is_held, c.form != window[0].form, c.label != label, first[c.form, c.label]),
        )
        ordered += window
        label = window[-1].label
    return ordered


def _questions(session: Session, project_id: int, ids: Sequence[int]) -> dict[int, dict[str, _Asked]]:
    """Review task -> instance -> question."""
    found: dict[int, dict[str, _Asked]] = defaultdict(dict)
    for part in parts(ids):
        rows = session.execute(
            select(
                QuestionRecord.review_task_id,
                QuestionRecord.label,
                QuestionRecord.instance,
                QuestionRecord.repeat,
            ).where(QuestionRecord.project_id == project_id, QuestionRecord.review_task_id.in_(part))
        )
        for task, label, instance, repeat in rows:
            found[task or 0][instance] = _Asked(label, instance, repeat)
    return found


class _Taken:
    """Who has answered the tasks or holds them."""

    def __init__(
        self, session: Session, person: Person, ids: Sequence[int], *, user: int, now: datetime
    ) -> None:
        self._user = user
        self._skipped: set[int] = set()
        self._users: dict[int, set[int]] = defaultdict(set)
        self._holders: dict[int, set[str]] = defaultdict(set)
        self._ahead: dict[int, list[tuple[datetime, str]]] = defaultdict(list)
        self.held: set[int] = set()
        for part in parts(ids):
            self._read(session, person, part, now)

    def _read(self, session: Session, person: Person, ids: Collection[int], now: datetime) -> None:
        project = person.project_id
        for task, worker, value in session.execute(
            select(AnswerRecord.review_task_id, AnswerRecord.worker, AnswerRecord.value).where(
                AnswerRecord.project_id == project, AnswerRecord.review_task_id.in_(ids)
            )
        ):
            if value != SKIP:
                self._users[task].add(worker)
            elif worker == self._user:
                self._skipped.add(task)
        answered: dict[int, set[str]] = defaultdict(set)
        for row in session.scalars(
            select(OutboxRecord).where(
                OutboxRecord.project_id == project,
                OutboxRecord.mode == QUESTIONS,
                OutboxRecord.task_id.in_(ids),
            )
        ):  # the queue knows better than what Label Studio said when it was last read
            self._users[row.task_id].discard(row.user)
            if row.person == person.id:
                self._skipped.discard(row.task_id)
            if row.withdrawn:
                continue
            answered[row.task_id].add(row.person)
            if not row.is_skip:
                self._users[row.task_id].add(row.user)
            elif row.person == person.id:
                self._skipped.add(row.task_id)
        for card in session.scalars(
            select(CardRecord).where(
                CardRecord.project_id == project,
                CardRecord.mode == QUESTIONS,
                CardRecord.task_id.in_(ids),
                CardRecord.until > now,
            )
        ):
            if card.person == person.id:
                self.held.add(card.task_id)
            elif card.person not in answered[card.task_id]:
                self._holders[card.task_id].add(card.person)
                if card.shown_at is None:
                    self._ahead[card.task_id].append((card.given_at, card.person))

    def by_person(self, task_id: int) -> bool:
        """Whether the person answered or skipped it."""
        return self._user in self._users[task_id] or task_id in self._skipped

    def answers(self, task_id: int) -> int:
        """How many other people answered it."""
        return len(self._users[task_id] - {self._user})

    def ahead(self, task_id: int) -> list[str]:
        """Other people who hold it and do not have it on the screen, who got it first first."""
        return [person for _, person in sorted(self._ahead[task_id])]

    def count(self, task_id: int) -> int:
        """How many other people answered it or hold it."""
        return len(self._users[task_id]) + len(self._holders[task_id])


def _judged(
    session: Session,
    person: Person,
    user: int,
    asked: Mapping[int, Mapping[str, _Asked]],
) -> set[tuple[str, str]]:
    """(label, instance) of the masks of repeated questions that this person judged before."""
    names = sorted({row.instance for rows in asked.values() for row in rows.values() if row.repeat > 0})
    found: set[tuple[str, str]] = set()
    for start in range(0, len(names), _BOUND_VALUES):
        about = [
            QuestionRecord.project_id == person.project_id,
            QuestionRecord.instance.in_(names[start : start + _BOUND_VALUES]),
        ]
        pulled = select(QuestionRecord.label, QuestionRecord.instance).join(
            AnswerRecord,
            (AnswerRecord.project_id == QuestionRecord.project_id)
            & (AnswerRecord.question_key == QuestionRecord.key),
        )
        queued = select(QuestionRecord.label, QuestionRecord.instance).join(
            OutboxRecord,
            (OutboxRecord.project_id == QuestionRecord.project_id)
            & (OutboxRecord.task_id == QuestionRecord.review_task_id),
        )
        mine = (
            pulled.where(*about, AnswerRecord.worker == user, AnswerRecord.value != SKIP),
            queued.where(
                *about,
                OutboxRecord.person == person.id,
                OutboxRecord.mode == QUESTIONS,
                OutboxRecord.withdrawn.is_(False),
                OutboxRecord.is_skip.is_(False),
            ),
        )
        for query in mine:
            found.update((label, instance) for label, instance in session.execute(query))
    return found
