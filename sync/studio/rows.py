"""Label Studio's JSON of projects, tasks, annotations and predictions, to and from our rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sync.studio.protocol import AnnotationRow, ProjectRow, TaskRow, UserRow

__all__ = [
    "annotation_row",
    "parse_time",
    "project_row",
    "task_filter",
    "task_row",
    "time_filter_value",
    "user_row",
]

Json = dict[str, Any]


def task_filter(column: str, operator: str, kind: str, value: Any) -> Json:
    """One filter of a Data Manager query."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def time_filter_value(moment: datetime) -> str:
    """A moment as Data Manager filters want it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def project_row(item: Json) -> ProjectRow:
    """A project, from any answer of Label Studio that holds one."""
    created = int(parse_time(item["created_at"]).timestamp())
    return ProjectRow(
        id=int(item["id"]),
        title=str(item["title"]),
        label_config=str(item["label_config"]),
        model_version=str(item.get("model_version") or ""),
        key=f"{item['id']}.{created}",
        task_number=int(item.get("task_number") or 0),
        description=str(item.get("description") or ""),
        maximum_annotations=int(item.get("maximum_annotations") or 1),
        instruction=str(item.get("expert_instruction") or ""),
    )


def task_row(item: Json) -> TaskRow:
    """A task, from a list of tasks, from ``next``, or read by its number."""
    return TaskRow(
        id=int(item["id"]),
        project_id=int(item["project"]),
        data=item["data"],
        updated_at=parse_time(item["updated_at"]),
        is_labeled=bool(item["is_labeled"]),
        annotations=tuple(annotation_row(row, int(item["id"])) for row in item.get("annotations") or ()),
    )


def annotation_row(item: Json, task_id: int) -> AnnotationRow:
    """An annotation; ``completed_by`` comes as a number or as an object."""
    user = item.get("completed_by")
    lead_time = item.get("lead_time")
    return AnnotationRow(
        id=int(item["id"]),
        task_id=task_id,
        result=tuple(item.get("result") or ()),
        was_cancelled=bool(item.get("was_cancelled")),
        ground_truth=bool(item.get("ground_truth")),
        completed_by=int(user["id"]) if isinstance(user, dict) else user,
        created_at=parse_time(item["created_at"]),
        updated_at=parse_time(item["updated_at"]),
        lead_time_s=None if lead_time is None else float(lead_time),
        import_id=item.get("import_id"),
    )


def user_row(item: Json) -> UserRow:
    """A user, from the list of all."""
    name = f"{item.get('first_name') or ''} {item.get('last_name') or ''}"
    return UserRow(int(item["id"]), " ".join(name.split()), str(item.get("email") or ""))
