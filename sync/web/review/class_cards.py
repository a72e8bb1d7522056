"""Cards of classes: pictures of the label project that nobody has finished, and one key per class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.services import Services
from sync.review.outbox import CLASSES, NewAnswer, choices_result
from sync.settings import Settings
from sync.store.tables import ProjectRecord, TaskRecord
from sync.web.review.class_tasks import ClassRanks, ClassTasks
from sync.web.review.deck import NextCards, being_read, give, half_of, take_over
from sync.web.review.pictures import Pictures
from sync.web.review.sessions import Person
from sync.web.review.streams import CardId

__all__ = ["ClassCards"]

_KEYS = "123456789adefgijklmnopqvwy"
"""one key per class, without those that the page keeps for itself"""


class ClassCards:
    """Pictures of one project of kind ``classes`` as cards; see ``QuestionCards`` and ``ClassTasks``."""

    mode = CLASSES

    def __init__(
        self,
        settings: Settings,
        config: LabelConfig,
        pictures: Pictures,
        services: Services,
        ranks: ClassRanks,
    ) -> None:
        self._settings = settings
        self._pictures = pictures
        self._target = config.targets[0]
        self._tag = self._target.outputs[0]
        self._tasks = ClassTasks(config, settings, services, ranks)
        self.labels = list(self._target.labels)

    def about(self) -> dict[str, Any]:
        """What the page shows about the stream besides its counts."""
        return {"question": "Which class is it?", "orders": list(self._tasks.orders)}

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
        """See ``QuestionCards.next_cards``; ``order`` is one of ``about()["orders"]``, "" for the first."""
        there = self._tasks.open(session, person, order=order, now=now)
        chosen = [task for task in there if task.id not in have][:count]
        kept = [task for task in there if task.id in have]
        if count and not chosen and not any(task.id != shown for task in kept):
            ahead = self._tasks.held_ahead(session, person, order=order, now=now)
            chosen = ahead[: min(count, half_of(len(ahead)))]
            for task in chosen:
                take_over(session, CLASSES, task.id, task.holders, now)
        suggested = self._tasks.suggestions(person.project_id, [task.id for task in (*chosen, *kept)])
        tasks = [(task.id, suggested.get(task.id, ())) for task in (*chosen, *kept)]
        give(session, person, CLASSES, tasks, hold_s=self._settings.review_hold_s, now=now)
        cards = [self._card(person, task.id, suggested.get(task.id, ())) for task in chosen]
        left = {task.id for task in (*there, *chosen)}
        return NextCards(cards, len(left), frozenset(have) - left)

    def is_full(self, session: Session, person: Person, task_id: int, *, now: datetime) -> bool:
        """Whether another person named the classes of a picture."""
        return self._tasks.is_answered(session, person, task_id)

    def left(self, session: Session, person: Person, *, now: datetime) -> int:
        """How many pictures are left for this person."""
        return len(self._tasks.open(session, person, order="", now=now))

    def card(self, session: Session, person: Person, card: CardId) -> dict[str, Any]:
        """One card of theirs as it is shown. Raises BadInput when its task is gone."""
        self._check(session, card)
        suggested = self._tasks.suggestions(person.project_id, [card.task_id])
        return self._card(person, card.task_id, suggested.get(card.task_id, ()))

    def _check(self, session: Session, card: CardId) -> None:
        task = session.get(TaskRecord, card.task_id)
        if task is None and session.get_one(ProjectRecord, card.project_id).pulled_at is None:
            raise being_read(card.project_id)
        if task is None or task.project_id != card.project_id or card.form != "class":
            raise BadInput("this picture is not there any more", field="card")

    def _card(self, person: Person, task_id: int, suggested: Sequence[str]) -> dict[str, Any]:
        image = self._pictures.whole(person, task_id)
        keys = [*_KEYS, *([""] * len(self.labels))]
        return {
            "id": str(CardId(person.project_id, "class", task_id)),
            "form": "class",
            "label": "",
            "question": "Which class is it?" if not self._tag.multiple else "Which classes are there?",
            "crop": image,
            "context": image,
            "image": image,
            "examples": {"good": [], "bad": []},
            "choices": [{"value": v, "key": k} for v, k in zip(self.labels, keys, strict=False)],
            "exclusive": not self._tag.multiple,
            "suggested": list(suggested),
        }

    def answer(
        self,
        session: Session,
        card: CardId,
        raw: Mapping[str, Any],
        *,
        uuid: str,
        seconds: float,
        suggested: Sequence[str],
    ) -> NewAnswer:
        """An answer as it is kept; unsure and skip are Label Studio's skip. Raises BadInput."""
        self._check(session, card)
        value: dict[str, Any]
        if raw.get("value") in ("skip", "unsure"):
            value, result, is_skip = {"value": raw["value"]}, [], True
        else:
            chosen = self._chosen(raw.get("choices"))
            value, is_skip = {"choices": chosen}, False
            names = [self._target.value(label) for label in chosen]
            result = choices_result(self._tag.name, self._tag.to_name, names, uuid)
        return NewAnswer(
            uuid=uuid,
            mode=CLASSES,
            project_id=card.project_id,
            task_id=card.task_id,
            form="class",
            label="",
            value=value,
            suggested=tuple(str(one) for one in suggested),
            result=result,
            is_skip=is_skip,
            seconds=seconds,
        )

    def _chosen(self, value: object) -> list[str]:
        known = self.labels
        if not isinstance(value, list) or any(not isinstance(one, str) or one not in known for one in value):
            raise BadInput("choices are classes of this project", field="choices")
        chosen = [label for label in known if label in value]
        if not self._tag.multiple and len(chosen) != 1:
            raise BadInput("choose one class", field="choices")
        return chosen
