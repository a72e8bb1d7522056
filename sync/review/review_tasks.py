"""Review tasks: the two forms in which people see questions, and how their answers are read.

* *single*: one crop on a canvas with the keys y, n and u. One question per task.
* *sheet*: a grid of cards. The wrong ones are ticked (number keys), one submit for all.

A review task carries its questions under ``groundswell``, so the store can be rebuilt from Label Studio
alone. It does not say whether the answer is known already (gold), since workers could read that. This follows
from the annotations of the task that shows the mask.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ml_backend.errors import BadInput
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.instances import INSTANCES
from ml_backend.label_studio.label_config import VERDICTS
from ml_backend.masks.rle import parse_rle
from sync.review.question import FORMS, Question
from sync.studio.protocol import AnnotationRow

__all__ = [
    "KEY_FIELD",
    "RawAnswer",
    "parse_answers",
    "pictures_of",
    "question_text",
    "read_questions",
    "sheet_key",
    "sheet_task",
    "sheet_text",
    "single_task",
    "with_pictures",
]

KEY_FIELD = "groundswell_key"
_GRIDS = ((10, 5, 2), (18, 6, 3), (28, 7, 4), (36, 9, 4))
"""cards at most, columns, rows: the cards of a sheet are as large as the window allows"""
_NAME = "text-align:center;font-weight:bold;overflow:hidden;white-space:nowrap;text-overflow:ellipsis"
_BESIDE_PX, _ABOVE_PX, _NAME_PX, _GAP_PX = 350, 165, 22, 6
"""what Label Studio shows beside and above the cards, the name below a card, the room between two"""
_QUESTIONS = TypeAdapter(list[Question])
"""fields that a newer version added are ignored"""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """The answer of one annotation to one question; ``seconds`` is this question's share of its time."""

    question_key: str
    value: str
    seconds: float | None


def single_task(question: Question, image_url: str, kind: ProjectKind = INSTANCES) -> dict[str, Any]:
    """Task data of a single question; ``kind`` is that of its label."""
    return {
        "image": image_url,
        "question": f"{question_text(question.label, kind)}  y = yes   n = no   u = unsure",
        KEY_FIELD: question.key,
        "groundswell": {"form": "single", "questions": [asdict(question)]},
    }


def sheet_key(questions: Sequence[Question]) -> str:
    """Key of the contact sheet that shows exactly these questions."""
    digest = hashlib.sha256(" ".join(question.key for question in questions).encode()).hexdigest()
    return f"{questions[0].round}:sheet:{digest[:24]}"


def sheet_task(
    questions: Sequence[Question], image_urls: Sequence[str], kind: ProjectKind = INSTANCES
) -> dict[str, Any]:
    """Task data of a contact sheet: card ``card<i>`` shows question i, with its label where they differ.

    ``kind`` is that of the first label.
    """
    labels = [question.label for question in questions]
    return {
        "question": sheet_text(labels, kind),
        "cards": _cards(image_urls, labels),
        KEY_FIELD: sheet_key(questions),
        "groundswell": {"form": "sheet", "questions": [asdict(question) for question in questions]},
    }


def question_text(label: str, kind: ProjectKind = INSTANCES) -> str:
    """What people are asked about one mask; ``kind`` is that of its label."""
    return kind.question.format(label=label)


def sheet_text(labels: Sequence[str], kind: ProjectKind = INSTANCES) -> str:
    """What people are asked to do with a contact sheet; ``kind`` is that of the first label."""
    is_one = len(set(labels)) == 1
    of = kind.good_one.format(label=labels[0]) if is_one else "a good one of what its name says"
    return f"Tick every card that is NOT {of}. Leave the good ones."


def pictures_of(data: Mapping[str, Any]) -> list[str]:
    """Addresses of the crops that a review task shows, in the order of its questions."""
    if "cards" not in data:
        return [str(data.get("image", ""))]
    texts = [str(card.get("html", "")) for card in data["cards"]]
    return [html.unescape(text.partition('src="')[2].partition('"')[0]) for text in texts]


def with_pictures(data: Mapping[str, Any], image_urls: Sequence[str]) -> dict[str, Any]:
    """The data of a review task with other addresses of its crops; all else stays."""
    if "cards" not in data:
        return {**data, "image": image_urls[0]}
    _, questions = read_questions(data)
    return {**data, "cards": _cards(image_urls, [question.label for question in questions])}


def _cards(image_urls: Sequence[str], labels: Sequence[str]) -> list[dict[str, str]]:
    is_mixed = len(set(labels)) > 1
    side = _card_side(len(labels), _NAME_PX if is_mixed else 0)
    picture = f"width:{side};height:{side};object-fit:contain;background:#888"
    name = f"width:{side};height:{_NAME_PX}px;line-height:{_NAME_PX}px;{_NAME}"
    return [
        {
            "value": f"card{i}",
            "html": f'<img src="{html.escape(url, quote=True)}" style="{picture}" alt=""/>'
            + (f'<div style="{name}">{html.escape(label)}</div>' if is_mixed else ""),
        }
        for i, (url, label) in enumerate(zip(image_urls, labels, strict=True))
    ]


def _card_side(cards: int, name_px: int) -> str:
    """CSS length of a card's side: all cards of the sheet fit the window, also a laptop's (1366×768)."""
    columns, rows = next(((columns, rows) for most, columns, rows in _GRIDS if cards <= most), _GRIDS[-1][1:])
    wide = f"(100vw - {_BESIDE_PX}px) / {columns} - {_GAP_PX}px"
    high = f"(100vh - {_ABOVE_PX}px) / {rows} - {_GAP_PX + name_px}px"
    return f"clamp(90px, min({wide}, {high}), 300px)"


def read_questions(data: Mapping[str, Any]) -> tuple[str, list[Question]]:
    """Form and questions of a review task; fields that this version does not know are ignored.

    Raises BadInput when the task is not one of ours or was edited.
    """
    meta = data.get("groundswell")
    if not isinstance(meta, Mapping) or meta.get("form") not in FORMS:
        raise BadInput("no review task of Groundswell", field="data.groundswell", hint="Delete the task")
    form, field = str(meta["form"]), "data.groundswell.questions"
    try:
        questions = _QUESTIONS.validate_python(meta.get("questions"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"the question cannot be read: {place} {first['msg']}",
            field=field,
            hint="Restore the data of the task, or delete the task: it is then asked again",
        ) from error
    if not questions or (form == "single" and len(questions) > 1):
        raise BadInput(f"{len(questions)} questions in a task of the form {form}", field=field)
    for i, question in enumerate(questions):
        parse_rle(question.rle, field=f"{field}[{i}].rle")
    return form, [_without_hidden_phase(question) for question in questions]


def _without_hidden_phase(question: Question) -> Question:
    """Older releases wrote ``-2 - phase`` for the cluster of questions that no cluster was asked for."""
    return question if question.cluster >= -1 else replace(question, cluster=-1)


def parse_answers(data: Mapping[str, Any], annotation: AnnotationRow) -> list[RawAnswer]:
    """Answers in one submitted annotation; none for a skip or an incomplete single form."""
    if annotation.was_cancelled:
        return []
    form, questions = read_questions(data)
    if form == "single":
        chosen = _choices(annotation, "verdict")
        if len(chosen) != 1 or chosen[0] not in VERDICTS:
            return []
        return [RawAnswer(questions[0].key, chosen[0], annotation.lead_time_s)]
    wrong = set(_choices(annotation, "wrong"))
    seconds = None if annotation.lead_time_s is None else annotation.lead_time_s / len(questions)
    return [
        RawAnswer(question.key, "no" if f"card{i}" in wrong else "yes", seconds)
        for i, question in enumerate(questions)
    ]


def _choices(annotation: AnnotationRow, name: str) -> list[str]:
    found: list[str] = []
    for item in annotation.result:
        value = item.get("value")
        if item.get("from_name") == name and item.get("type") == "choices" and isinstance(value, Mapping):
            found += [str(choice) for choice in value.get("choices", [])]
    return found
