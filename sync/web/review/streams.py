"""A stream: what one person may answer in one project, as the page lists it. Cards have names in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ml_backend.errors import BadInput
from sync.review.outbox import CLASSES, QUESTIONS, Mode
from sync.web.review.sessions import Person

__all__ = ["CardId", "parse_card", "parse_stream", "tasks_of"]

_CARD: Final = re.compile(r"([1-9][0-9]{0,9}):([shc]):([1-9][0-9]{0,17})")
_FORMS: Final = {"single": "s", "sheet": "h", "class": "c"}
_NAMES: Final = {letter: form for form, letter in _FORMS.items()}


@dataclass(frozen=True, slots=True)
class CardId:
    """``<project>:<s, h or c>:<task>``: a task as one form shows it."""

    project_id: int
    form: str
    task_id: int

    @property
    def mode(self) -> Mode:
        """Which of the two kinds of answers it wants."""
        return CLASSES if self.form == "class" else QUESTIONS

    def __str__(self) -> str:
        return f"{self.project_id}:{_FORMS[self.form]}:{self.task_id}"


def parse_card(text: object, person: Person) -> CardId:
    """A card that this person may answer. Raises BadInput, also for those of other projects."""
    match = _CARD.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadInput("this is no card", field="card")
    card = CardId(int(match[1]), _NAMES[match[2]], int(match[3]))
    if card.project_id != person.project_id or card.mode not in person.modes:
        raise BadInput("this card is not yours", field="card")
    return card


def tasks_of(person: Person, mode: Mode, names: Iterable[object]) -> dict[int, str]:
    """Task and name of the cards of one mode; what is no card for this person is left out."""
    found = {}
    for name in names:
        try:
            card = parse_card(name, person)
        except BadInput:
            continue
        if card.mode == mode:
            found[card.task_id] = str(card)
    return found


def parse_stream(text: str, person: Person) -> Mode:
    """The mode of a stream of this person. Raises BadInput."""
    for mode in person.modes:
        if text == f"{person.project_id}:{mode}":
            return mode
    raise BadInput("there is no such stream for you", field="stream", hint="Ask api/me which there are")
