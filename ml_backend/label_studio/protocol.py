"""What Label Studio sends, parsed once into frozen types. Errors name the field; nothing here knows Flask.

Label Studio sends everything it has of a task along: drafts, annotations, earlier predictions, with
megabytes of brush strokes. Nothing of that is needed. ``strip_rle`` empties the number lists of brush
regions before JSON is parsed, and only ``id`` and ``data`` of a task and the interactive context are ever
looked at, so an answer does not slow down with the regions on the image, and no person's work reaches a
log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ml_backend.errors import BadInput

__all__ = [
    "WEBHOOK_ACTIONS",
    "PredictRequest",
    "SetupRequest",
    "TaskIn",
    "WebhookEvent",
    "parse_body",
    "parse_predict",
    "parse_project_key",
    "parse_setup",
    "parse_webhook",
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


@dataclass(frozen=True, slots=True)
class TaskIn:
    """One task of a request; ``problem`` says why it cannot be answered (the others still are)."""

    id: int | None
    data: Mapping[str, object]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """``project_id`` is None when the request names none (then ``label_config`` must help)."""

    project_id: int | None
    label_config: str
    tasks: tuple[TaskIn, ...]
    context: Mapping[str, Any] | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """Project and label config; the token that Label Studio sends along is never kept."""

    project_id: int
    label_config: str


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """That something happened in a project."""

    project_id: int
    action: str


def strip_rle(body: bytes) -> bytes:
    """The JSON body with all lists of plain numbers under ``"rle"`` emptied; valid JSON stays valid.

    In JSON text a quote inside a string is escaped, so ``"rle"`` followed by a colon is a key unless a
    backslash stands before it (then it is the end of a longer key). A list without strings, lists and
    objects in it ends at its first bracket. All scanning is done by ``bytes.find``, at gigabytes per
    second.
    """
    parts = []
    done = at = 0
    while (key := body.find(_RLE_KEY, at)) >= 0:
        at = key + len(_RLE_KEY)
        opened = _LIST_START.match(body, at)
        if opened is None or body[key - 1 : key] == b"\\":  # a value, or the end of a longer text
            continue
        start = opened.end()
        stop = body.find(b"]", start)
        if stop < 0:
            break
        if any(body.find(mark, start, stop) >= 0 for mark in (b'"', b"[", b"{")):
            continue  # something else than numbers: leave it to the parser
        parts.append(body[done:start])
        done = at = stop
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
    tasks = body.get("tasks")
    if not isinstance(tasks, list):
        raise BadInput(f"is {_kind(tasks)}, expected a list", field="tasks")
    if len(tasks) > _MAX_TASKS:
        raise BadInput(f"{len(tasks)} tasks in one request, at most {_MAX_TASKS} are taken", field="tasks")
    params = _mapping(body, "params")
    context = params.get("context")
    if context is not None and not isinstance(context, Mapping):
        raise BadInput(f"is {_kind(context)}, expected an object", field="params.context")
    label_config = _text(body, "label_config")
    project = body.get("project")
    if project in (None, ""):
        project = next((t.get("project") for t in tasks if isinstance(t, Mapping)), None)
    project_id = None if project in (None, "") else parse_project_key(project)
    if project_id is None and not label_config:
        raise BadInput(
            "is missing", field="project", hint="Send Label Studio's project key or a label_config"
        )
    if context and len(tasks) != 1:
        raise BadInput(f"an interactive request is about one task, got {len(tasks)}", field="tasks")
    return PredictRequest(project_id, label_config, tuple(_task(t) for t in tasks), context or None)


def parse_setup(body: Mapping[str, Any]) -> SetupRequest:
    """A request of ``/setup``. Raises BadInput naming the field."""
    if body.get("project") in (None, ""):
        raise BadInput("is missing", field="project", hint="Expected '<id>.<created unix seconds>'")
    return SetupRequest(parse_project_key(body["project"]), _text(body, "schema"))


def parse_webhook(raw: bytes, *, project: str | None = None) -> WebhookEvent:
    """A webhook call. With ``project`` (from the address) only the head of the body is read."""
    if project is not None:
        found = _ACTION.match(raw[:200])
        if found is not None:
            return WebhookEvent(parse_project_key(project), found.group(1).decode())
    body = parse_body(raw)
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise BadInput(f"is {_kind(action)}, expected the name of an action", field="action")
    if project is None:
        owner = body.get("project")
        if not isinstance(owner, Mapping) or owner.get("id") is None:
            raise BadInput("is missing", field="project.id", hint="The webhook must send its payload")
        project = str(owner["id"])
    return WebhookEvent(parse_project_key(project), action)


def _task(task: object) -> TaskIn:
    if not isinstance(task, Mapping):
        return TaskIn(None, {}, f"the task is {_kind(task)}, expected an object")
    found = task.get("id")
    number = found if isinstance(found, int) and not isinstance(found, bool) else None
    data = task.get("data")
    if not isinstance(data, Mapping):
        return TaskIn(number, {}, f"data is {_kind(data)}, expected an object")
    return TaskIn(number, data)


def _mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise BadInput(f"is {_kind(found)}, expected an object", field=name)
    return found


def _text(body: Mapping[str, Any], name: str) -> str:
    found = body.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise BadInput(f"is {_kind(found)}, expected text", field=name)
    return found


def _kind(value: object) -> str:
    """The JSON name of a value's type, for messages (the value itself may be private)."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, Sequence) else "an object"


def parse_project_key(key: object) -> int:
    """The project id of ``<id>.<created>`` (or a bare id). Raises BadInput naming the field ``project``."""
    text = str(key) if isinstance(key, str | int) and not isinstance(key, bool) else ""
    head = text.split(".", 1)[0]
    if not (head.isascii() and head.isdigit() and 0 < len(head) <= 18 and int(head) > 0):
        raise BadInput(
            f"{key!r} is no project key", field="project", hint="Expected '<id>.<created unix seconds>'"
        )
    return int(head)
