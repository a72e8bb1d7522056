"""Review tasks: the two forms of a question in Label Studio, and how their answers are read.

* *single*: the crop on a canvas with keys y / n / u. One question per task.
* *sheet*: a grid of cards, the wrong ones are ticked (automatic number keys), one submit per sheet.

Each form has a review project of its own, since a Label Studio project has one label config. A review task
carries the whole question under ``groundswell``, so the store can be rebuilt from Label Studio alone; whether
a question is gold is not in there (workers could read it), it follows from the annotations of its task.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.label_studio.config_builder import build_review_config, build_sheet_config
from ml_backend.label_studio.label_config import VERDICTS
from sync.studio.protocol import AnnotationRow, StudioClient

__all__ = [
    "FORMS",
    "HIDDEN",
    "KEY_FIELD",
    "Example",
    "Question",
    "RawAnswer",
    "ensure_review_project",
    "instructions",
    "parse_answers",
    "read_questions",
    "sheet_key",
    "sheet_task",
    "single_task",
]

KEY_FIELD = "groundswell_key"
FORMS = ("single", "sheet")
HIDDEN = 1000
"""``Question.repeat`` of hidden repeats starts here"""
_CARD = "width:200px;height:200px;object-fit:contain;background:#888"  # ten cards fit a laptop's window
_EXAMPLE_PX = 92  # six stand beside each other in the dialog


@dataclass(frozen=True, slots=True)
class Question:
    """One question, as it travels in a review task.

    ``key`` is ``<round>:<instance>:<stream>:<repeat>``, unique in the project; ``instance`` is the key of the
    mask; ``repeat`` is 0 when it is first asked about, 1, 2, … when it is asked again because its answers
    leave it open, and from ``HIDDEN`` on in hidden repeats; ``sheet`` is the policy's number of the contact
    sheet, -1 for none; the rest are the columns of its
    question and the mask itself, by which the answer is carried over to later rounds.
    """

    key: str
    project_id: int
    round: int
    task_id: int
    instance: str
    label: str
    item: int
    cluster: int
    stream: int
    inclusion: float
    form: int
    repeat: int
    prior: float
    rle: Rle
    sheet: int = -1

    @staticmethod
    def make_key(round_number: int, instance: str, stream: int, repeat: int) -> str:
        """The key of a question."""
        return f"{round_number}:{instance}:{stream}:{repeat}"


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What one annotation says about one question; ``seconds`` is the share of this question in its time."""

    question_key: str
    value: str
    seconds: float | None


def ensure_review_project(
    studio: StudioClient,
    project_id: int,
    title: str,
    *,
    form: str,
    labels: Sequence[str] = (),
    maximum_annotations: int = 1,
) -> int:
    """Id of the review project of this form, created when it is not there yet (found again by its title).

    A new one gets plain instructions; the review step adds examples.
    """
    marker = f"· review {project_id} ({form})"
    for row in studio.projects():
        if row.title.endswith(marker):
            return row.id
    name = f"{title[: 49 - len(marker)]} {marker}"  # Label Studio keeps 50 characters
    row = studio.create_project(
        name,
        build_review_config() if form == "single" else build_sheet_config(),
        sampling="Sequential sampling",
        maximum_annotations=maximum_annotations,
        instruction=instructions(labels, form=form),
    )
    return row.id


@dataclass(frozen=True, slots=True)
class Example:
    """One picture in the instructions; ``key`` names its crop, ``caption`` says what it shows."""

    label: str
    key: str
    url: str
    is_good: bool
    caption: str


def instructions(labels: Sequence[str], *, form: str, examples: Sequence[Example] = ()) -> str:
    """Instructions for review workers as HTML, with a row of small pictures per label that has examples.

    Label Studio keeps no ``style`` attributes here: size and layout are attributes of tables and pictures.
    """
    names = ", ".join(f"<b>{html.escape(label)}</b>" for label in labels)
    about = f"<p>Objects: {names}.</p>" if names else ""
    if form == "single":
        how = (
            "<p>The outline shows one found object. Press <b>y</b> if it is the named object and the outline "
            "follows it (small wobbles are fine), <b>n</b> if it is something else, only a part, or several "
            "objects together, <b>u</b> if you cannot tell. Then Ctrl+Enter.</p>"
        )
    else:
        how = (
            "<p>Each card shows one found object in outline. Tick every card that is <b>wrong</b>: something "
            "else, only a part, or several objects together. Leave the good ones. Then Ctrl+Enter.</p>"
        )
    shown = [[e for e in examples if e.label == label] for label in labels]
    return how + about + "".join(_example_row(row, form) for row in shown if row)


def _example_row(examples: Sequence[Example], form: str) -> str:
    keep, refuse = ("<b>y</b>", "<b>n</b>") if form == "single" else ("leave", "<b>tick</b>")
    cells = "".join(
        f'<td align="center" valign="top" width="{_EXAMPLE_PX + 6}">'
        f'<img src="{html.escape(e.url)}" width="{_EXAMPLE_PX}" alt="{html.escape(e.caption)}">'
        f"{keep if e.is_good else refuse} · {html.escape(e.caption)}</td>"
        for e in examples
    )
    return (
        f"<p><b>{html.escape(examples[0].label)}</b></p>"
        f'<table cellpadding="3" cellspacing="0"><tbody><tr>{cells}</tr></tbody></table>'
    )


def single_task(question: Question, image_url: str) -> dict[str, Any]:
    """Task data of a single question."""
    return {
        "image": image_url,
        "question": f"Is the outlined object a good {question.label}?  y = yes   n = no   u = unsure",
        KEY_FIELD: question.key,
        "groundswell": {"form": "single", "questions": [asdict(question)]},
    }


def sheet_key(questions: Sequence[Question]) -> str:
    """Key of the contact sheet that shows exactly these questions."""
    digest = hashlib.sha256(" ".join(question.key for question in questions).encode()).hexdigest()
    return f"{questions[0].round}:sheet:{digest[:24]}"


def sheet_task(questions: Sequence[Question], image_urls: Sequence[str]) -> dict[str, Any]:
    """Task data of a contact sheet: card ``card<i>`` shows question i."""
    cards = [
        {"value": f"card{i}", "html": f'<img src="{html.escape(url, quote=True)}" style="{_CARD}" alt=""/>'}
        for i, url in enumerate(image_urls)
    ]
    return {
        "question": f"Tick every card that is NOT a good {questions[0].label}. Leave the good ones.",
        "cards": cards,
        KEY_FIELD: sheet_key(questions),
        "groundswell": {"form": "sheet", "questions": [asdict(question) for question in questions]},
    }


def read_questions(data: Mapping[str, Any]) -> tuple[str, list[Question]]:
    """Form and questions of a review task. Raises BadInput when the task is not one of ours or was edited."""
    meta = data.get("groundswell")
    if not isinstance(meta, Mapping) or meta.get("form") not in FORMS:
        raise BadInput("no review task of Groundswell", field="data.groundswell", hint="Delete the task")
    try:
        questions = [Question(**question) for question in meta["questions"]]
    except (TypeError, KeyError) as error:
        raise BadInput(
            f"the question cannot be read: {error}",
            field="data.groundswell.questions",
            hint="Delete the task",
        ) from error
    return str(meta["form"]), questions


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
    seconds = None if annotation.lead_time_s is None else annotation.lead_time_s / max(len(questions), 1)
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
