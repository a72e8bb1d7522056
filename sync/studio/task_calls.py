"""Calls about tasks: list, import, upload, delete."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sync.studio.checks import data_fields
from sync.studio.project_calls import SLOW_CALL_S, ProjectCalls
from sync.studio.protocol import TaskRow
from sync.studio.rows import parse_time, task_filter, task_row, time_filter_value
from sync.studio.task_listing import page_of_tasks, tasks_by_id

__all__ = ["TaskCalls"]

# `include` also cuts the fields of nested annotations, so it names both; predictions (heavy) stay out
_TASK_FIELDS = (
    "id,project,data,updated_at,is_labeled,annotations,"
    "result,was_cancelled,ground_truth,completed_by,created_at,lead_time,import_id,task"
)
_PLAIN_IN_PATHS = "/~!*()'"
"""characters that Django leaves as they are in the address of a file"""
_PAGE = 100
_FILES_PER_CALL = 50
_TASKS_PER_CALL = 1000


class TaskCalls(ProjectCalls):
    """Tasks with their annotations."""

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        # The listing goes on from the last change seen instead of counting pages: a task that changes while
        # we read moves to the end, and page numbers would then step over one that did not.
        since = changed_since
        inclusive = False
        seen: set[int] = set()
        page = 1
        while True:
            filters = []
            if since is not None:
                operator = "greater_or_equal" if inclusive else "greater"
                filters.append(task_filter("updated_at", operator, "Datetime", time_filter_value(since)))
            answer = page_of_tasks(
                self._http,
                project_id,
                fields="all",
                include=_TASK_FIELDS,
                filters=filters,
                order="tasks:updated_at",
                page=page,
                size=_PAGE,
            )
            rows = [task_row(item) for item in answer]
            fresh = [row for row in rows if row.id not in seen]
            seen.update(row.id for row in fresh)
            yield from fresh
            if len(rows) < _PAGE:
                return
            if fresh and rows[-1].updated_at != since:
                since, inclusive, page = rows[-1].updated_at, True, 1
            else:  # a whole page changed at the same microsecond
                page += 1

    def task(self, task_id: int) -> TaskRow:
        return task_row(self._http.get(f"/api/tasks/{task_id}/", resolve_uri="false"))

    def task_ids(self, project_id: int) -> set[int]:
        return {int(item["id"]) for item in tasks_by_id(self._http, project_id, "id")}

    def task_times(self, project_id: int, *, after: int = 0, limit: int | None = None) -> dict[int, datetime]:
        rows = tasks_by_id(self._http, project_id, "id,updated_at", after=after, limit=limit)
        return {int(row["id"]): parse_time(row["updated_at"]) for row in rows}

    def task_values(self, project_id: int, field: str) -> dict[str, int]:
        rows = tasks_by_id(self._http, project_id, "id,data")
        return {str(row["data"][field]): int(row["id"]) for row in rows if field in row["data"]}

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for row in tasks_by_id(self._http, project_id, "id,data"):
            yield int(row["id"]), row["data"]

    def upload_images(
        self, project_id: int, paths: Sequence[Path], *, data: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        field = data_fields(self.project(project_id).label_config)[0]
        ids: list[int] = []
        for start in range(0, len(paths), _FILES_PER_CALL):
            part = slice(start, start + _FILES_PER_CALL)
            addresses = self._upload(project_id, paths[part])
            further = data[part] or [{}] * len(addresses)
            rows = [{**more, field: at} for at, more in zip(addresses, further, strict=True)]
            ids += self.import_tasks(project_id, rows)
        return ids

    def _upload(self, project_id: int, paths: Sequence[Path]) -> list[str]:
        """Send files without making tasks of them; their addresses in order.

        Label Studio makes tasks of files without any field but the image, so the tasks are made afterwards. A
        crash in between leaves files that no task shows, never a task that lacks its fields.
        """
        with ExitStack() as stack:
            files = [
                (f"file{n}", (path.name, stack.enter_context(path.open("rb")), _mime(path)))
                for n, path in enumerate(paths)
            ]
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"commit_to_project": "false"},
                files=files,
                read_timeout_s=SLOW_CALL_S,
            )
        ids = [int(one) for one in answer["file_upload_ids"]]
        rows = self._http.get(f"/api/projects/{project_id}/file-uploads", ids=json.dumps(ids))
        names = {int(row["id"]): str(row["file"]) for row in rows}
        # the address that Label Studio itself gives to uploads, below the path it is served from
        below = urlsplit(self._http.base_url).path.rstrip("/")
        return [f"{below}/data/" + quote(names[one], safe=_PLAIN_IN_PATHS) for one in ids]

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        ids: list[int] = []
        for start in range(0, len(data), _TASKS_PER_CALL):
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"return_task_ids": "true", "commit_to_project": "true"},
                json=[{"data": dict(item)} for item in data[start : start + _TASKS_PER_CALL]],
                read_timeout_s=SLOW_CALL_S,
            )
            ids += [int(task) for task in answer["task_ids"]]
        return ids

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        for start in range(0, len(task_ids), _TASKS_PER_CALL):
            self._http.call(
                "POST",
                "/api/dm/actions",
                params={"id": "delete_tasks", "project": project_id},
                json={
                    "selectedItems": {
                        "all": False,
                        "included": list(task_ids[start : start + _TASKS_PER_CALL]),
                    }
                },
                repeatable=True,
                read_timeout_s=SLOW_CALL_S,
            )

    def set_task_data(self, task_id: int, data: Mapping[str, Any]) -> TaskRow:
        return self._changed_task(task_id, {"data": dict(data)})

    def close_task(self, task_id: int) -> TaskRow:
        # Label Studio serves tasks by this mark; it works the mark out anew after an answer or a skip
        return self._changed_task(task_id, {"is_labeled": True})

    def _changed_task(self, task_id: int, change: Mapping[str, Any]) -> TaskRow:
        self._http.call("PATCH", f"/api/tasks/{task_id}/", json=change)
        return self.task(task_id)


def _mime(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
