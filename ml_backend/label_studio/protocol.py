"""The bodies that Label Studio sends, parsed once into frozen types. Nothing here knows Flask.

Label Studio sends all it has of a task: drafts, annotations, earlier predictions, with megabytes of brush
strokes. None of that is needed here. ``strip_rle`` empties the number lists of brush regions before JSON is
parsed, and of a task only ``id``, ``data`` and ``project`` are read. So an answer does not slow down with the
regions of a task, and no person's work reaches a log.

Fields that a newer Label Studio adds are ignored. Errors are ``BadInput`` and name the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_backend.errors import BadInput

__all__ = [
    "MAX_ID",
    "WEBHOOK_ACTIONS",
    "PredictRequest",
    "ProjectKey",
    "SetupRequest",
    "TaskIn",
    "WebhookEvent",
    "parse_body",
    "parse_predict",
    "parse_project_key",
    "parse_setup",
    "parse_task",
    "parse_webhook",
    "project_key_of",
    "strip_rle",
]

WEBHOOK_ACTIONS: Final = frozenset(
    {
        "ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED",
        "ANNOTATION_DELETED", "TASKS_CREATED", "TASKS_DELETED", "PROJECT_CREATED", "PROJECT_UPDATED",
        "PROJECT_DELETED", "START_TRAINING", "LABEL_LINK_CREATED", "LABEL_LINK_UPDATED",
        "LABEL_LINK_DELETED",
    }
)  # fmt: skip
_RLE_KEY: Final = b'"rle"'
_LIST_START: Final = re.compile(rb"\s*:\s*\[")
_ACTION: Final = re.compile(rb'^\s*\{\s*"action"\s*:\s*"([A-Z_]{1,60})"')
_MAX_TASKS: Final = 100_000
MAX_ID: Final = 2**63 - 1  # of a column of Label Studio's database, and of ours
_KEY_HINT: Final = "Expected '<id>.<created unix seconds>'"


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """Label Studio's name of a project: its id and when it was created.

    ``created_s`` is in seconds since 1970, None when the request does not contain it. Ids start again at 1 on
    a newly installed server, so the same id may mean another project.
    """

    id: int
    created_s: int | None = None


@dataclass(frozen=True, slots=True)
class TaskIn:
    """One task of a request. ``problem`` says why it cannot be answered; other tasks are not affected."""

    id: int | None
    data: Mapping[str, object]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A request of ``/predict``. Without a ``project`` there is a ``label_config``."""

    project: ProjectKey | None
    label_config: str
    tasks: tuple[TaskIn, ...]
    context: Mapping[str, Any] | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """Project and label config. Label Studio also sends a token, which is not kept."""

    project: ProjectKey
    label_config: str


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """Something happened in a project."""

    project: ProjectKey
    action: str


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Params(_Body):
    context: dict[str, Any] | None = None


class _PredictBody(_Body):
    tasks: list[Any]
    project: Any = None
    label_config: str | None = None
    params: _Params | None = None


class _SetupBody(_Body):
    project: Any = None
    label_config: str | None = Field(default=None, alias="schema")


class _Task(_Body):
    id: Any = None
    data: dict[str, Any]


class _WebhookBody(_Body):
    action: str = Field(min_length=1)
    project: Any = None


def strip_rle(body: bytes) -> bytes:
    """The JSON body with all lists of plain numbers under ``"rle"`` emptied. Valid JSON stays valid.

    In JSON a quote inside a string is escaped. So ``"rle"`` followed by a colon is a key, unless a backslash
    comes before it: then it is the end of a longer key. A list of plain numbers ends at the first closing
    bracket. All scanning uses ``bytes.find``, which is very fast. Each byte is read only a few times, because
    the search for the next bracket starts after the last one.
    """
    parts = []
    done = at = 0
    close = -1
    while (key := body.find(_RLE_KEY, at)) >= 0:
        at = key + len(_RLE_KEY)
        opened = _LIST_START.match(body, at)
        if opened is None or body[key - 1 : key] == b"\\":  # a value, or the end of a longer text
            continue
        start = opened.end()
        if close < start:
            close = body.find(b"]", start)
        if close < 0:
            break
        if any(body.find(mark, start, close) >= 0 for mark in (b'"', b"[", b"{")):
            continue  # not a list of numbers: left to the parser
        parts.append(body[done:start])
        done = at = close
    parts.append(body[done:])
    return b"".join(parts)


def parse_body(body: bytes) -> Mapping[str, Any]:
    """A JSON object. Raises BadInput with the place of the error."""
    if not body:
        raise BadInput("the body is empty, expected a JSON object", field="body")
    try:
        found = json.loads(strip_rle(body))
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg} at character {error.pos}"
            if isinstance(error, json.JSONDecodeError)
            else "not UTF-8 JSON"
        )
        raise BadInput(f"the body is not JSON ({what})", field="body") from error
    if not isinstance(found, dict):
        raise BadInput(f"the body is {_kind(found)}, expected an object", field="body")
    return found


def parse_predict(body: Mapping[str, Any]) -> PredictRequest:
    """A request of ``/predict``. Raises BadInput naming the field."""
    found = _validated(_PredictBody, body)
    tasks = found.tasks
    if len(tasks) > _MAX_TASKS:
        raise BadInput(f"{len(tasks)} tasks in one request, at most {_MAX_TASKS} are taken", field="tasks")
    context = found.params.context if found.params is not None else None
    if context and len(tasks) != 1:
        raise BadInput(f"an interactive request is about one task, got {len(tasks)}", field="tasks")
    project = found.project
    if project in (None, ""):
        project = next((t.get("project") for t in tasks if isinstance(t, Mapping)), None)
    key = None if project in (None, "") else parse_project_key(project)
    if key is None and not found.label_config:
        raise BadInput(
            "is missing", field="project", hint="Send Label Studio's project key or a label_config"
        )
    return PredictRequest(key, found.label_config or "", tuple(parse_task(t) for t in tasks), context or None)


def parse_setup(body: Mapping[str, Any]) -> SetupRequest:
    """A request of ``/setup``. Raises BadInput naming the field."""
    found = _validated(_SetupBody, body)
    if found.project in (None, ""):
        raise BadInput("is missing", field="project", hint=_KEY_HINT)
    return SetupRequest(parse_project_key(found.project), found.label_config or "")


def parse_webhook(raw: bytes, *, project: str | None = None) -> WebhookEvent:
    """A webhook call. With ``project`` (from the address) only the head of the body is read."""
    if project is not None:
        head = _ACTION.match(raw[:200])
        if head is not None:
            return WebhookEvent(parse_project_key(project), head.group(1).decode())
    found = _validated(_WebhookBody, parse_body(raw))
    if project is not None:
        return WebhookEvent(parse_project_key(project), found.action)
    return WebhookEvent(project_key_of(found.project), found.action)


def parse_project_key(key: object) -> ProjectKey:
    """Parse ``<id>.<created>`` or a plain id. Raises BadInput naming the field ``project``."""
    text = str(key) if isinstance(key, str | int) and not isinstance(key, bool) else ""
    head, dot, tail = text.partition(".")
    if not (_is_number(head) and int(head) > 0) or (dot and not _is_number(tail)):
        raise BadInput(f"{_short(key)} is no project key", field="project", hint=_KEY_HINT)
    return ProjectKey(int(head), int(tail) if dot else None)


def project_key_of(project: object) -> ProjectKey:
    """The key of a project as webhooks describe it. Raises BadInput naming ``project.id``."""
    if not isinstance(project, Mapping) or project.get("id") is None:
        raise BadInput("is missing", field="project.id", hint="The webhook must send its payload")
    return ProjectKey(parse_project_key(str(project["id"])).id, _seconds(project.get("created_at")))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _short(key: object) -> str:
    """The value sent instead of a project key, shortened for a message."""
    return f"{key[:40]!r}" if isinstance(key, str) else _kind(key)


def _seconds(created_at: object) -> int | None:
    """Unix seconds of a time as Label Studio writes it, computed as in its own project keys."""
    if not isinstance(created_at, str):
        return None
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.timestamp())


def parse_task(task: object) -> TaskIn:
    """One task of a request. An error goes into its ``problem``, so that the other tasks are answered."""
    if not isinstance(task, Mapping):
        return TaskIn(None, {}, f"the task is {_kind(task)}, expected an object")
    number = task.get("id")
    number = number if isinstance(number, int) and not isinstance(number, bool) else None
    if number is not None and abs(number) > MAX_ID:
        return TaskIn(None, {}, "id is too large for a task of Label Studio")
    try:
        return TaskIn(number, _validated(_Task, task).data)
    except BadInput as error:
        return TaskIn(number, {}, f"{error.field} {error.message}")


M = TypeVar("M", bound=_Body)

_EXPECTED: Final = {
    "dict_type": "an object",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_type": "text",
}


def _validated(model: type[M], body: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
        found = "missing" if first["type"] == "missing" else _kind(first["input"])
        expected = _EXPECTED.get(first["type"])
        if found == "missing":
            message = "is missing"
        elif expected is not None:
            message = f"is {found}, expected {expected}"
        else:
            message = first["msg"]
        raise BadInput(message, field=place) from None


def _kind(value: object) -> str:
    """The JSON name of a value's type, for messages. The value itself may be private."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, Sequence) else "an object"
