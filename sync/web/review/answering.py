"""What the page's routes do: give cards, keep answers, take them back, count.

What people send is checked here, answer by answer: one that is refused does not hold up the others.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from sync.review.outbox import CLASSES, QUESTIONS, Mode, find_answer, put_answer, take_back
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.review_tables import OutboxRecord
from sync.store.tables import ProjectRecord
from sync.web.access.errors import NotAllowed, PageError
from sync.web.access.shared import WebServices
from sync.web.review.class_cards import ClassCards
from sync.web.review.class_tasks import ClassRanks
from sync.web.review.deck import (
    answered_count,
    give,
    give_back,
    held_card,
    held_cards,
    held_tasks,
    is_over,
    note_shown,
)
from sync.web.review.invites import wants_classes
from sync.web.review.pictures import Pictures
from sync.web.review.question_cards import QuestionCards
from sync.web.review.sessions import Person
from sync.web.review.statistics import figures
from sync.web.review.streams import CardId, parse_card, tasks_of
from sync.web.review.times import MOST_ANSWERS, claimed_seconds, passed_since, time_scale

__all__ = ["Answering", "Conflict"]

_MOST_HELD: Final = 60
"""cards that one person may hold at a time"""


class Conflict(PageError):
    """What was asked for is no longer possible."""

    status = 409


@dataclass(frozen=True, slots=True)
class _Project:
    title: str
    settings: Settings
    cards: Mapping[Mode, QuestionCards | ClassCards]

    def of(self, mode: Mode) -> QuestionCards | ClassCards:
        """The cards of a mode. Raises BadInput when the project was changed to want something else."""
        if mode not in self.cards:
            raise BadInput("this project wants no classes of pictures any more", field="stream")
        return self.cards[mode]


class Answering:
    """One person's requests. Raises BadInput, StorageError; ``Conflict`` where it says so."""

    def __init__(self, web: WebServices, pictures: Pictures) -> None:
        self._web = web
        self._pictures = pictures
        self._ranks = ClassRanks(web.services)

    def about(self, person: Person) -> dict[str, Any]:
        """Who they are, and what they may answer."""
        now = utc_now()
        with self._web.store.read() as session:
            project = self._project(session, person)
            streams = []
            for mode, cards in project.cards.items():
                stream = {
                    "id": f"{person.project_id}:{mode}",
                    "title": project.title if mode == QUESTIONS else f"{project.title}: classes",
                    "mode": mode,
                    "labels": cards.labels,
                    "left": cards.left(session, person, now=now),
                    "answered": answered_count(session, person, mode),
                }
                streams.append(stream | cards.about())
        settings = project.settings
        return {
            "id": person.page,
            "name": person.name,
            "streams": streams,
            "settings": {
                "auto_s": settings.review_auto_s,
                "auto_answer": settings.review_auto_answer,
                "show_speed": settings.review_show_speed,
                "show_gold": settings.review_show_gold,
            },
        }

    def cards(
        self, person: Person, mode: Mode, *, count: int, have: Collection[str], shown: str, order: str
    ) -> dict[str, Any]:
        """The next cards, kept for this person, and what they have lost of those that their page has.

        ``shown`` is the card on the screen. Unreadable names, and those of cards that were never given to
        them, are ignored.
        """
        ids = tasks_of(person, mode, have)
        looked_at = min(tasks_of(person, mode, [shown]), default=0)
        now = utc_now()
        with self._web.store.write() as session:
            cards = self._project(session, person).of(mode)
            given = held_cards(session, person, mode, ids.keys())
            names = {task: name for task, name in ids.items() if task in given}
            held = held_tasks(session, person, mode, now) & names.keys()
            most = min(count, max(0, _MOST_HELD - len(held)))
            found = cards.next_cards(
                session, person, count=most, have=names.keys(), shown=looked_at, now=now, order=order
            )
            if looked_at:
                note_shown(session, person, mode, looked_at, now)
            answered = answered_count(session, person, mode)
            lost = sorted(names[task] for task in found.lost if is_over(session, person, mode, task, now))
        return {"cards": found.cards, "left": found.left, "answered": answered, "lost": lost}

    def give_back(self, person: Person, raw: object) -> dict[str, Any]:
        """Cards that the page fetched ahead and shows to nobody: others may have them at once."""
        if not isinstance(raw, list) or len(raw) > _MOST_HELD:
            raise BadInput(f"cards is a list of {_MOST_HELD} at most", field="cards")
        now = utc_now()
        with self._web.store.write() as session:
            count = sum(
                give_back(session, person, mode, sorted(tasks_of(person, mode, raw)), now)
                for mode in person.modes
            )
        return {"given_back": count}

    def answer(self, person: Person, raw: object, shown: object = "") -> dict[str, Any]:
        """Keep answers. What the reply calls stored is committed.

        ``shown`` is the card that is on the screen by now; it is among the ``lost`` ones when somebody else
        got it meanwhile.
        """
        if not isinstance(raw, list) or not 0 < len(raw) <= MOST_ANSWERS:
            raise BadInput(f"answers is a list of 1 to {MOST_ANSWERS}", field="answers")
        now = utc_now()
        stored: list[str] = []
        refused: list[dict[str, str]] = []
        feedback: list[dict[str, Any]] = []
        mode: Mode | None = None
        with self._web.store.write() as session:
            project = self._project(session, person)
            scale = time_scale(session, person, raw, now)
            for item in raw:
                name = item.get("uuid") if isinstance(item, Mapping) else None
                try:
                    card, row = self._keep(session, person, project, item, scale, now, len(stored))
                except BadInput as error:
                    refused.append({"uuid": str(name)[:64], "error": error.message, "hint": error.hint})
                    continue
                mode = card.mode
                stored.append(str(name))
                if row.right is not None and project.settings.review_show_gold:
                    feedback.append({"uuid": str(name), "right": row.right})
            counted = mode or person.modes[0]
            lost = [
                name
                for task, name in tasks_of(person, counted, [shown]).items()
                if not note_shown(session, person, counted, task, now)
            ]
            left = project.of(counted).left(session, person, now=now)
            answered = answered_count(session, person, counted)
        if stored:
            self._web.answered.set()
        return {
            "stored": stored,
            "refused": refused,
            "feedback": feedback,
            "left": left,
            "answered": answered,
            "lost": lost,
        }

    def _keep(
        self,
        session: Session,
        person: Person,
        project: _Project,
        item: object,
        scale: float,
        now: datetime,
        place: int,
    ) -> tuple[CardId, OutboxRecord]:
        if not isinstance(item, Mapping):
            raise BadInput("an answer is a JSON object", field="answers")
        name = _uuid(item.get("uuid"))
        card = parse_card(item.get("card"), person)
        row = find_answer(session, person.id, card.mode, card.task_id)
        if row is not None and name in row.uuids:
            return card, row
        held = held_card(session, person, card.mode, card.task_id)
        if held is None:
            raise BadInput("this card was not given to you", field="card")
        is_open = row is None or row.withdrawn
        if held.shared and is_open and project.of(card.mode).is_full(session, person, card.task_id, now=now):
            raise BadInput(
                "somebody else has answered this one", hint="You need not do anything", field="card"
            )
        seconds = min(claimed_seconds(item.get("seconds")) * scale, passed_since(held.given_at, now))
        answer = project.of(card.mode).answer(
            session, card, item, uuid=name, seconds=seconds, suggested=held.suggested
        )
        held.shared = held.shared or answer.is_skip  # others get it at once, and it may be taken back
        user = person.user(card.mode)
        assert user is not None  # parse_card lets no other mode through
        # answers of one request keep their order
        at = now.replace(microsecond=min(999_999, now.microsecond // 1000 * 1000 + place))
        return card, put_answer(session, person.id, user, answer, at)

    def undo(self, person: Person, raw: object) -> dict[str, Any]:
        """Take one of the last answers back; the card is theirs again. Raises Conflict."""
        card = parse_card(raw, person)
        now = utc_now()
        try:
            with self._web.store.write() as session:
                project = self._project(session, person)
                row = take_back(session, person.id, card.mode, card.task_id)
                shown = project.of(card.mode).card(session, person, card)
                give(
                    session,
                    person,
                    card.mode,
                    [(card.task_id, row.suggested)],
                    hold_s=project.settings.review_hold_s,
                    now=now,
                )
                before = dict(row.value)
        except BadInput as error:
            raise Conflict(error.message, field=error.field, hint=error.hint) from error
        self._web.answered.set()
        return {"card": shown, "before": before}

    def figures(self, person: Person, mode: Mode, now: datetime) -> dict[str, Any]:
        """Their own figures in one stream."""
        version = self._ranks.version(person.project_id) if mode == CLASSES else ""
        with self._web.store.read() as session:
            settings = self._project(session, person).settings
            return figures(session, person, mode, settings, now, version=version)

    def _project(self, session: Session, person: Person) -> _Project:
        record = session.get(ProjectRecord, person.project_id)
        if record is None:
            raise NotAllowed(
                "this project takes part no more", field="link.project", hint="Ask whoever sent you the link"
            )
        settings = self._web.settings.for_project(record.options)
        config = parse_label_config(record.label_config)
        cards: dict[Mode, QuestionCards | ClassCards] = {}
        for mode in person.modes:
            if mode == QUESTIONS:
                cards[mode] = QuestionCards(settings, config, self._pictures)
            elif wants_classes(config):
                cards[mode] = ClassCards(settings, config, self._pictures, self._web.services, self._ranks)
        return _Project(record.title, settings, cards)


def _uuid(value: object) -> str:
    try:
        if not isinstance(value, str) or len(value) != 36:
            raise ValueError
        return str(uuid.UUID(value))
    except ValueError:
        raise BadInput("uuid is no UUID", field="uuid") from None
