"""Cards of questions: which ones a person gets, what they show, and what an answer to one may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.instances import INSTANCES
from ml_backend.label_studio.label_config import VERDICTS, LabelConfig
from sync.review.instructions import example_pictures
from sync.review.known_truth import known_truth
from sync.review.outbox import QUESTIONS, NewAnswer, choices_result
from sync.review.question import FORMS
from sync.review.review_tasks import question_text, sheet_text
from sync.settings import Settings
from sync.store.tables import ProjectRecord, QuestionRecord, ReviewTaskRecord
from sync.web.review.candidates import OpenCard, cards_held_ahead, is_full, open_cards, same_label_runs
from sync.web.review.deck import NextCards, being_read, give, half_of, last_label, take_over
from sync.web.review.pictures import Pictures
from sync.web.review.sessions import Person
from sync.web.review.streams import CardId

__all__ = ["QuestionCards"]

_SKIP = "skip"


class QuestionCards:
    """Questions of one project as cards.

    Parameters
    ----------
    settings : with the project's own options
    config : the label config of the project
    pictures : where addresses come from
    """

    mode = QUESTIONS

    def __init__(self, settings: Settings, config: LabelConfig, pictures: Pictures) -> None:
        self._settings = settings
        self._config = config
        self._pictures = pictures
        self.labels = list(config.labels)

    def about(self) -> dict[str, Any]:
        """What the page shows about the stream besides its counts."""
        return {}

    def next_cards(
        self,
        session: Session,
        person: Person,
        *,
        count: int,
        have: Collection[int],
        now: datetime,
        shown: int = 0,
        order: str = "",
    ) -> NextCards:
        """The next cards for a person, in a write session.

        ``have``: review tasks that the page holds already, ``shown``: the one on its screen, 0 for none.
        ``order`` is the policy's, so there is no choice.
        """
        there = self._open(session, person, now)
        fresh = [card for card in there if card.task_id not in have]
        label = last_label(session, person, QUESTIONS)
        chosen = same_label_runs(fresh, label)[:count]
        # also those that the page gave back while it was hidden, when nobody took them
        kept = [card for card in there if card.task_id in have]
        if count and not chosen and not any(card.task_id != shown for card in kept):
            chosen = self._taken_over(session, person, count, now)
        hold_s = self._settings.review_hold_s
        tasks = [(card.task_id, ()) for card in (*chosen, *kept)]
        give(session, person, QUESTIONS, tasks, hold_s=hold_s, now=now)
        left = {card.task_id for card in (*there, *chosen)}
        cards = [self._card(person, card) for card in chosen]
        return NextCards(cards, len(left), frozenset(have) - left)

    def _taken_over(self, session: Session, person: Person, count: int, now: datetime) -> list[OpenCard]:
        """Cards that others only hold ahead, for a person who has nothing else to do."""
        overlap, user = self._settings.review_overlap, person.review_user or 0
        ahead = cards_held_ahead(session, person, overlap=overlap, now=now, user=user)
        taken = ahead[: min(count, half_of(len(ahead)))]
        for card in taken:
            take_over(session, QUESTIONS, card.task_id, card.holders, now)
        return taken

    def is_full(self, session: Session, person: Person, task_id: int, *, now: datetime) -> bool:
        """Whether as many other people answered a task as are wanted."""
        overlap, user = self._settings.review_overlap, person.review_user or 0
        return is_full(session, person, task_id, overlap=overlap, now=now, user=user)

    def left(self, session: Session, person: Person, *, now: datetime) -> int:
        """How many tasks are left for this person."""
        return len(self._open(session, person, now))

    def card(self, session: Session, person: Person, card: CardId) -> dict[str, Any]:
        """One card of theirs as it is shown. Raises BadInput when its review task is gone."""
        return self._card(person, self._task(session, card))

    def _open(self, session: Session, person: Person, now: datetime) -> list[OpenCard]:
        overlap = self._settings.review_overlap
        return open_cards(session, person, overlap=overlap, now=now, user=person.review_user or 0)

    def _task(self, session: Session, card: CardId) -> OpenCard:
        task = session.get(ReviewTaskRecord, (card.project_id, card.task_id))
        if task is None:
            _refuse_while_read(session, card)
        if task is None or FORMS[task.form] != card.form:
            raise BadInput("this question is not there any more", field="card")
        rows = {row.instance: row for row in _questions(session, card)}
        shown = [str(instance) for instance, _ in task.pictures]
        if not shown or any(instance not in rows for instance in shown):
            raise BadInput("this question is not there any more", field="card")
        return OpenCard(task.id, card.form, tuple(rows[i].label for i in shown), tuple(shown))

    def _kind(self, label: str) -> ProjectKind:
        # a question of a label that was removed meanwhile is one about an object
        return self._config.kind_of(label) if label in self._config.labels else INSTANCES

    def _card(self, person: Person, card: OpenCard) -> dict[str, Any]:
        kind = self._kind(card.labels[0])
        found: dict[str, Any] = {
            "id": str(CardId(person.project_id, card.form, card.task_id)),
            "form": card.form,
            "label": card.label,
            "examples": self._examples(person, card.label),
        }
        items = [
            {
                "crop": self._pictures.crop(person, instance),
                "context": self._pictures.context(person, instance),
                "label": label,
            }
            for instance, label in zip(card.pictures, card.labels, strict=True)
        ]
        if card.form == "sheet":
            return {**found, "question": sheet_text(card.labels, kind), "items": items}
        crop, context = items[0]["crop"], items[0]["context"]
        return {**found, "question": question_text(card.label, kind), "crop": crop, "context": context}

    def _examples(self, person: Person, label: str) -> dict[str, list[str]]:
        good: list[str] = []
        bad: list[str] = []
        captions: list[str] = []
        for of, key, is_good, caption in example_pictures(
            ProjectPaths(self._settings.data_dir, person.project_id)
        ):
            if of == label:
                (good if is_good else bad).append(self._pictures.crop(person, key))
                if not is_good:
                    captions.append(caption)
        return {"good": good, "bad": bad, "bad_captions": captions}

    def answer(
        self,
        session: Session,
        card: CardId,
        raw: Mapping[str, Any],
        *,
        uuid: str,
        seconds: float,
        suggested: Sequence[str] = (),
    ) -> NewAnswer:
        """An answer as it is kept. Raises BadInput when the card does not take it."""
        task = self._task(session, card)
        value: dict[str, Any]
        if raw.get("value") == _SKIP:
            value, result = {"value": _SKIP}, []
        elif card.form == "sheet":
            wrong = _wrong_cards(raw.get("wrong"), len(task.pictures))
            value = {"wrong": wrong}
            result = choices_result("wrong", "question", [f"card{i}" for i in wrong], uuid)
        else:
            verdict = raw.get("value")
            if verdict not in VERDICTS:
                raise BadInput(f"an answer is one of {', '.join((*VERDICTS, _SKIP))}", field="value")
            value = {"value": verdict}
            result = choices_result("verdict", "image", [str(verdict)], uuid)
        is_skip = value == {"value": _SKIP}
        return NewAnswer(
            uuid=uuid,
            mode=QUESTIONS,
            project_id=card.project_id,
            task_id=card.task_id,
            form=card.form,
            label=task.label,
            value=value,
            suggested=(),
            result=result,
            is_skip=is_skip,
            seconds=seconds,
            right=None if is_skip else self._is_right(session, card, task, value),
        )

    def _is_right(
        self, session: Session, card: CardId, task: OpenCard, value: Mapping[str, Any]
    ) -> bool | None:
        """Whether the answer is right, where it is known and people may be told."""
        if not self._settings.review_show_gold or value == {"value": "unsure"}:
            return None
        rows = {row.instance: row for row in _questions(session, card)}
        truth = [known_truth(session, self._config, rows[instance]) for instance in task.pictures]
        wrong = set(value.get("wrong", [0] if value.get("value") == "no" else []))
        known = [(i not in wrong) == good for i, good in enumerate(truth) if good is not None]
        return all(known) if known else None


def _refuse_while_read(session: Session, card: CardId) -> None:
    """Raise NotYet while a rebuild reads the review tasks again: an answer must not be refused then."""
    project = session.get_one(ProjectRecord, card.project_id)
    single = card.form == "single"
    number = project.review_project_id if single else project.sheet_project_id
    read_until = project.review_watermark if single else project.sheet_watermark
    if project.pulled_at is None or (number is not None and read_until is None):
        raise being_read(card.project_id)


def _questions(session: Session, card: CardId) -> list[QuestionRecord]:
    return list(
        session.scalars(
            select(QuestionRecord).where(
                QuestionRecord.project_id == card.project_id, QuestionRecord.review_task_id == card.task_id
            )
        )
    )


def _wrong_cards(value: object, count: int) -> list[int]:
    if not isinstance(value, list) or any(type(i) is not int or not 0 <= i < count for i in value):
        raise BadInput(f"the wrong ones are numbers from 0 to {count - 1}", field="wrong")
    return sorted(set(value))
